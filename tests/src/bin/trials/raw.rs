//! A client of HTTP/2 alone, which does what no gRPC library does: it resets streams by name, cuts
//! connections, and grants no window.

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::Request;
use paternoster_client::v1::GenerateRequest;
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const CONNECTION_WINDOW: u32 = 64 << 20;

/// One connection.
pub(crate) struct RawClient {
    requests: SendRequest<Bytes>,
    connection: JoinHandle<()>,
}

/// How a connection is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// By a FIN, in the middle of everything.
    Close,
    /// By a RST.
    Reset,
}

/// One call of `Generate`.
pub(crate) struct RawCall {
    request: SendStream<Bytes>,
    pub(crate) response: ResponseFuture,
}

impl RawClient {
    /// Connects; each answer may send `window` bytes ahead. The connection is cut when this is
    /// dropped.
    pub(crate) async fn connect(address: &str, window: u32, cut: Cut) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        if matches!(cut, Cut::Reset) {
            stream.set_zero_linger().unwrap();
        }
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(window)
            // What one answer leaves unread takes nothing from the others.
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(stream)
            .await
            .unwrap();
        let connection = tokio::spawn(async move {
            // How it ends is the server's business, but worth to be known.
            if let Err(error) = connection.await {
                eprintln!("a raw connection ended: {error}");
            }
        });
        Self {
            requests,
            connection,
        }
    }

    /// Begins a generation.
    pub(crate) async fn generate(&self, message: &GenerateRequest) -> RawCall {
        let request = Request::post("http://server/paternoster.v1.Inference/Generate")
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let mut requests = self.requests.clone().ready().await.unwrap();
        let sent = requests.send_request(request.body(()).unwrap(), false);
        let (response, mut request) = sent.unwrap();
        let mut framed = BytesMut::new();
        framed.put_u8(0);
        framed.put_u32(message.encoded_len() as u32);
        message.encode(&mut framed).unwrap();
        request.send_data(framed.freeze(), true).unwrap();
        RawCall { request, response }
    }
}

impl Drop for RawClient {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl RawCall {
    /// Resets the stream.
    pub(crate) fn reset(mut self, reason: Reason) {
        self.request.send_reset(reason);
    }
}

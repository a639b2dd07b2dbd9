//! A client of HTTP/2 alone, which does what no gRPC library does: it grants no window, sends half
//! of a request, and keeps no timer of its own.

use std::net::SocketAddr;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use prost::Message;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinHandle;
use tonic::Status;

use crate::world::soon;

/// One connection.
pub(crate) struct RawClient {
    requests: SendRequest<Bytes>,
    windows: Sender<u32>,
    connection: JoinHandle<()>,
}

/// One call; its request ends when this is dropped or finished.
pub(crate) struct RawCall {
    request: SendStream<Bytes>,
    response: ResponseFuture,
}

impl RawClient {
    /// Connects; each answer may send `window` bytes ahead.
    pub(crate) async fn connect(address: SocketAddr, window: u32) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (requests, mut connection) = h2::client::Builder::new()
            .initial_window_size(window)
            .handshake(stream)
            .await
            .unwrap();
        let (windows, mut sizes) = channel(1);
        let connection = tokio::spawn(async move {
            loop {
                tokio::select! {
                    // How it ends is the server's business.
                    _ended = &mut connection => return,
                    Some(size) = sizes.recv() => connection.set_initial_window_size(size).unwrap(),
                }
            }
        });
        Self {
            requests,
            windows,
            connection,
        }
    }

    /// How many calls the server takes at once.
    pub(crate) fn streams_max(&self) -> usize {
        self.requests.current_max_send_streams()
    }

    /// Lets answers send `window` bytes ahead from now on.
    pub(crate) fn open_window(&self, window: u32) {
        self.windows.try_send(window).unwrap();
    }

    /// Begins a call and sends nothing of its message.
    pub(crate) async fn begin(&mut self, path: &str, timeout: Option<&str>) -> RawCall {
        let headers: Vec<(&str, &str)> = timeout
            .map(|time| ("grpc-timeout", time))
            .into_iter()
            .collect();
        self.begin_with(path, &headers).await
    }

    /// As [`RawClient::begin`], with more header fields.
    pub(crate) async fn begin_with(&mut self, path: &str, headers: &[(&str, &str)]) -> RawCall {
        let mut request = Request::post(format!("http://server{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut requests = self.requests.clone().ready().await.unwrap();
        let sent = requests.send_request(request.body(()).unwrap(), false);
        let (response, request) = sent.unwrap();
        RawCall { request, response }
    }

    /// Asks for a page.
    pub(crate) async fn get(&mut self, path: &str) -> Response<RecvStream> {
        let request = Request::get(format!("http://server{path}"));
        let mut requests = self.requests.clone().ready().await.unwrap();
        let sent = requests.send_request(request.body(()).unwrap(), true);
        soon(sent.unwrap().0).await.unwrap()
    }

    /// Begins a call with its whole message.
    pub(crate) async fn call(&mut self, path: &str, message: &impl Message) -> RawCall {
        let mut call = self.begin(path, None).await;
        call.finish(message);
        call
    }

    /// How a call of an empty message ends that shows an API key.
    pub(crate) async fn call_with_key(&mut self, path: &str, key: &str) -> Status {
        let request = Request::post(format!("http://server{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", format!("Bearer {key}"));
        let mut requests = self.requests.clone().ready().await.unwrap();
        let sent = requests.send_request(request.body(()).unwrap(), false);
        let (response, request) = sent.unwrap();
        let mut call = RawCall { request, response };
        call.finish(&());
        call.status().await
    }

    /// Returns when the server has closed the connection.
    pub(crate) async fn closed(self) {
        soon(self.connection).await.unwrap();
    }
}

impl RawCall {
    /// Sends the message and the end of the request.
    pub(crate) fn finish(&mut self, message: &impl Message) {
        self.finish_with(framed(message));
    }

    /// Sends these bytes and the end of the request.
    pub(crate) fn finish_with(&mut self, bytes: impl Into<Bytes>) {
        self.request.send_data(bytes.into(), true).unwrap();
    }

    /// Sends a message as a frame of its own, as soon as the window lets it. The request goes on.
    pub(crate) fn send(&mut self, message: &impl Message) {
        self.request.send_data(framed(message), false).unwrap();
    }

    /// Sends these bytes, as soon as the window lets it. The request goes on.
    pub(crate) fn send_bytes(&mut self, bytes: impl Into<Bytes>) {
        self.request.send_data(bytes.into(), false).unwrap();
    }

    /// Whether it is refused before gRPC: by a reset, the end of its connection or a status of HTTP.
    pub(crate) async fn refused(&mut self) -> bool {
        match soon(&mut self.response).await {
            Ok(response) => response.status() != 200,
            Err(_reset) => true,
        }
    }

    /// The answer's head.
    pub(crate) async fn head(&mut self) -> (HeaderMap, RecvStream) {
        let response = soon(&mut self.response).await.unwrap();
        let (head, body) = response.into_parts();
        assert_eq!(head.status, 200);
        (head.headers, body)
    }

    /// How the call ends: what the answer's head says, or its trailers.
    pub(crate) async fn status(&mut self) -> Status {
        let (head, body) = self.head().await;
        match Status::from_header_map(&head) {
            Some(status) => status,
            None => end_of(body).await,
        }
    }
}

/// A message as it goes over the wire, uncompressed.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.encoded_len() as u32);
    message.encode(&mut framed).unwrap();
    framed.freeze()
}

/// Reads an answer to its trailers.
pub(crate) async fn end_of(mut body: RecvStream) -> Status {
    while let Some(part) = soon(body.data()).await {
        let part = part.unwrap();
        // Without a window there is none to give back to.
        let _released = body.flow_control().release_capacity(part.len());
    }
    let trailers = soon(body.trailers()).await.unwrap().unwrap();
    Status::from_header_map(&trailers).unwrap()
}

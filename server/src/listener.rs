//! One listener for gRPC and HTTP/1.1. Connections are counted, capped, and closed when they say
//! nothing; a drain says goodbye to each and then stops waiting.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use metrics::{counter, gauge};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::edge::{Edge, Origin};
use crate::limits::Limits;
use crate::metrics::{CONNECTIONS, CONNECTIONS_CLOSED};

/// Bytes after which a connection's protocol is known: the preface of HTTP/2.
const GREETING_BYTES: u64 = 24;
/// Calls at once on one connection.
const STREAMS_MAX: u32 = 256;
/// Pings on silent connections, and how long a peer may take to answer one.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of all header fields of one request.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// What a client may send ahead, on one stream and on all streams of a connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// What is kept for one slow reader before its stream is no longer asked for more.
const SEND_BUFFER: usize = 64 << 10;
/// What a connection that was told to leave has for its goodbye, while no call of it runs.
const LEAVE_GRACE: Duration = Duration::from_secs(5);
/// A drain bounds what it waits for by itself.
const NEVER: Duration = Duration::from_hours(24 * 365);
/// How long to wait before the next try when no connection can be accepted (no file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// When connections are taken, and when they end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stages {
    /// No new connection; each open one ends after its running calls.
    pub(crate) goodbye: CancellationToken,
    /// All connections end now.
    pub(crate) close: CancellationToken,
}

/// Accepts until `goodbye`, then waits for the open connections until `close`.
pub(crate) async fn run(listener: TcpListener, edge: Edge, limits: Limits, stages: Stages) {
    let builder = Arc::new(builder(&limits));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stages.goodbye.cancelled() => break,
            accepted = listener.accept() => {
                let (stream, peer) = match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "no connection could be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                if connections.len() >= limits.connections_max {
                    closed("over_limit");
                    continue;
                }
                let connection = Connection {
                    edge: edge.clone(),
                    builder: Arc::clone(&builder),
                    greeting_timeout: limits.greeting_timeout,
                    idle_timeout: limits.connection_idle_timeout,
                    goodbye: stages.goodbye.clone(),
                };
                connections.spawn(connection.serve(stream, peer));
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    tokio::select! {
        () = stages.close.cancelled() => {}
        () = async { while connections.join_next().await.is_some() {} } => {}
    }
}

fn closed(reason: &'static str) {
    counter!(CONNECTIONS_CLOSED, "reason" => reason).increment(1);
}

fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.greeting_timeout)
        .max_buf_size(64 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_header_list_size(HEADER_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER);
    builder
}

/// What one connection has done so far.
#[derive(Debug, Default)]
struct Activity {
    bytes_read: AtomicU64,
    calls_begun: AtomicU64,
    calls_ended: AtomicU64,
}

impl Activity {
    fn greeted(&self) -> bool {
        self.bytes_read.load(Ordering::Relaxed) >= GREETING_BYTES
            || self.calls_begun.load(Ordering::Relaxed) > 0
    }

    /// How many calls there were; `None` while one runs.
    fn idle_since(&self) -> Option<u64> {
        let begun = self.calls_begun.load(Ordering::Relaxed);
        (begun == self.calls_ended.load(Ordering::Relaxed)).then_some(begun)
    }
}

/// A call of a connection, until the connection has nothing more to send of its answer.
#[derive(Debug)]
struct OpenCall(Arc<Activity>);

impl OpenCall {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.calls_begun.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.calls_ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// One connection's task.
struct Connection {
    edge: Edge,
    builder: Arc<Builder<TokioExecutor>>,
    greeting_timeout: Duration,
    idle_timeout: Duration,
    goodbye: CancellationToken,
}

impl Connection {
    async fn serve(self, stream: TcpStream, peer: SocketAddr) {
        prepare(&stream);
        let _open = Open::count();
        let activity = Arc::new(Activity::default());
        let io = TokioIo::new(Counted {
            stream,
            activity: Arc::clone(&activity),
        });
        let stalled = CancellationToken::new();
        let (edge, calls, connection) = (self.edge, Arc::clone(&activity), stalled.clone());
        let service = service_fn(move |request| {
            let origin = Origin {
                peer,
                connection: connection.clone(),
                open: OpenCall::begin(&calls),
            };
            edge.clone().answer(request, origin)
        });
        let mut connection = pin!(self.builder.serve_connection(io, service));
        let mut greeting = pin!(tokio::time::sleep(self.greeting_timeout));
        let mut idle = tokio::time::interval(self.idle_timeout);
        idle.reset();
        let (mut greeted, mut leaving, mut calls_before) = (false, false, 0);
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "connection ended");
                    }
                    return;
                }
                () = self.goodbye.cancelled(), if !leaving => {
                    leaving = true;
                    idle = tokio::time::interval(NEVER);
                    idle.reset();
                    connection.as_mut().graceful_shutdown();
                }
                () = stalled.cancelled() => return closed("stalled"),
                () = greeting.as_mut(), if !greeted => {
                    greeted = true;
                    if !activity.greeted() {
                        return closed("silent");
                    }
                }
                _ = idle.tick() => match activity.idle_since() {
                    // It was told to leave, and does not.
                    Some(_) if leaving => return,
                    Some(calls) if calls == calls_before => {
                        closed("idle");
                        leaving = true;
                        idle = tokio::time::interval(LEAVE_GRACE);
                        idle.reset();
                        connection.as_mut().graceful_shutdown();
                    }
                    calls => calls_before = calls.unwrap_or(calls_before),
                },
            }
        }
    }
}

/// Sends small messages at once: with Nagle's algorithm, each token would wait for the client's
/// acknowledgement of the one before.
fn prepare(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
}

/// Counts an open connection until it is dropped.
struct Open;

impl Open {
    fn count() -> Self {
        gauge!(CONNECTIONS).increment(1.0);
        Self
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        gauge!(CONNECTIONS).decrement(1.0);
    }
}

/// A socket that counts what it reads.
struct Counted {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let read = buffer.filled().len() - before;
        self.activity
            .bytes_read
            .fetch_add(read as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_send_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        assert!(!stream.nodelay().unwrap());
        prepare(&stream);
        assert!(stream.nodelay().unwrap());
    }

    #[test]
    fn a_connection_is_idle_between_calls_only() {
        let activity = Arc::new(Activity::default());
        assert!(!activity.greeted());
        let call = OpenCall::begin(&activity);
        assert!(activity.greeted());
        assert_eq!(activity.idle_since(), None);
        drop(call);
        assert_eq!(activity.idle_since(), Some(1));
    }
}

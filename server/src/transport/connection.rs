//! One connection, from its handshake to its last byte: closed when it says nothing, told to leave
//! when it was idle for long, is old, or the server drains.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use metrics::gauge;
use rustls::server::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Interval, interval, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::census::Seat;
use super::{Closing, Peer};
use crate::clock::Deadline;
use crate::edge::{Edge, Origin};
use crate::limits::{HEADER_BYTES_MAX, LOOKS_MAX, Limits, PAGES_MAX};
use crate::metrics::CONNECTIONS;

/// Bytes after which a connection's protocol is known: the preface of HTTP/2.
const GREETING_BYTES: u64 = 24;
/// What a client may send ahead on one stream.
const STREAM_WINDOW: u32 = 64 << 10;
/// What it may send ahead on all streams together. What they hold is less by far, but the library also
/// goes by half of this when it ends a connection for the small frames that wait there, each of which
/// counts for what it lacks to 256 bytes: eight streams may be full of frames of 8 bytes.
const CONNECTION_WINDOW: u32 = 32 << 20;
/// What is kept for one slow reader before its stream is no longer asked for more.
const SEND_BUFFER: usize = 64 << 10;
/// What a connection that was told to leave has for its goodbye, while no call of it runs.
const LEAVE_GRACE: Duration = Duration::from_secs(5);
/// A drain bounds what it waits for by itself.
const NEVER: Duration = Duration::from_hours(24 * 365);

/// What serves connections of either protocol.
pub(super) fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.greeting_timeout)
        .max_buf_size(64 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_per_connection_max)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout)
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
pub(super) struct Connection {
    pub(super) edge: Edge,
    pub(super) builder: Arc<Builder<TokioExecutor>>,
    pub(super) peer: Peer,
    /// Its place among those that may be open.
    pub(super) seat: Seat,
    pub(super) times: Times,
    pub(super) goodbye: CancellationToken,
}

/// How long one connection may do what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// When it must have said what it speaks.
    pub(super) greeting: Deadline,
    /// Without a call.
    pub(super) idle: Duration,
    /// Until it is told to leave.
    pub(super) age: Option<Duration>,
    /// What its calls have then.
    pub(super) grace: Duration,
}

/// Whether a connection may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stay {
    Welcome,
    /// It was told to leave; somebody else bounds what its calls may take.
    Leaving,
    /// It was told to leave because it is old.
    Aged,
}

impl Connection {
    /// Serves once both sides have shown what they have to show.
    pub(super) async fn serve_tls(self, stream: TcpStream, tls: Arc<ServerConfig>) {
        let handshake = TlsAcceptor::from(tls).accept(stream);
        let done = tokio::select! {
            () = self.goodbye.cancelled() => return,
            done = self.times.greeting.limit(handshake) => done,
        };
        match done {
            Some(Ok(stream)) => self.serve(stream).await,
            Some(Err(error)) => {
                tracing::debug!(%error, peer = %self.peer, "no handshake");
                Closing::Handshake.count();
            }
            None => Closing::Silent.count(),
        }
    }

    pub(super) async fn serve<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (_open, _seat) = (Open::count(), self.seat);
        let activity = Arc::new(Activity::default());
        let io = TokioIo::new(Counted {
            stream,
            activity: Arc::clone(&activity),
        });
        let stalled = CancellationToken::new();
        let looks = Arc::new(Semaphore::new(LOOKS_MAX));
        let pages = Arc::new(Semaphore::new(PAGES_MAX));
        let (edge, peer, times) = (self.edge, self.peer, self.times);
        let (calls, connection) = (Arc::clone(&activity), stalled.clone());
        let service = service_fn(move |request| {
            let origin = Origin {
                peer,
                connection: connection.clone(),
                looks: Arc::clone(&looks),
                pages: Arc::clone(&pages),
                open: OpenCall::begin(&calls),
            };
            edge.clone().answer(request, origin)
        });
        let mut connection = pin!(self.builder.serve_connection(io, service));
        let mut greeting = pin!(times.greeting.sleep());
        let mut age = pin!(sleep(times.age.unwrap_or(NEVER)));
        let mut idle = every(times.idle);
        let (mut greeted, mut stay, mut calls_before) = (false, Stay::Welcome, 0);
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "connection ended");
                    }
                    return;
                }
                () = self.goodbye.cancelled(), if stay == Stay::Welcome => {
                    (stay, idle) = (Stay::Leaving, every(NEVER));
                    connection.as_mut().graceful_shutdown();
                }
                () = stalled.cancelled() => return Closing::Stalled.count(),
                () = greeting.as_mut(), if !greeted => {
                    greeted = true;
                    if !activity.greeted() {
                        return Closing::Silent.count();
                    }
                }
                () = age.as_mut(), if stay != Stay::Leaving => {
                    // Its calls had all the time that calls may have.
                    if stay == Stay::Aged {
                        return;
                    }
                    Closing::Aged.count();
                    (stay, idle) = (Stay::Aged, every(LEAVE_GRACE));
                    age.set(sleep(times.grace));
                    connection.as_mut().graceful_shutdown();
                }
                _ = idle.tick() => match activity.idle_since() {
                    // It was told to leave, and does not.
                    Some(_) if stay != Stay::Welcome => return,
                    Some(calls) if calls == calls_before => {
                        Closing::Idle.count();
                        (stay, idle) = (Stay::Leaving, every(LEAVE_GRACE));
                        connection.as_mut().graceful_shutdown();
                    }
                    calls => calls_before = calls.unwrap_or(calls_before),
                },
            }
        }
    }
}

/// Ticks for the first time after one period.
fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.reset();
    ticks
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
struct Counted<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
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

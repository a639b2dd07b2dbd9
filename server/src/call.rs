//! One gRPC call from its first byte to its last: counted once, with the code it ended with.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use metrics::{Gauge, counter, gauge};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::MetadataMap;

use crate::clock::{Deadline, Stopwatch};
use crate::journal::Report;
use crate::method::{Method, Role};
use crate::metrics::{CALL_ERRORS, CALLS, PANICS, REQUESTS};
use crate::security::Slot;
use crate::status::{Ending, Fault, code_name};
use crate::sweeper::{Rules, Watched};

/// The most that is handed to the transport at once. It takes whatever it gets as soon as the window
/// has room for one byte, so this is also what it may keep beyond the window.
const SLICE_BYTES: usize = 16 << 10;

/// One of the calls that may run at once; empty until the method takes it, and after the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place(Arc<Mutex<Option<Held>>>);

/// What a request has while it runs: a place among all, and one of its tenant's.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) _permit: OwnedSemaphorePermit,
    pub(crate) _slot: Option<Slot>,
}

impl Place {
    /// Keeps it until the call ends.
    pub(crate) fn hold(&self, held: Held) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(held);
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// A call that runs. Dropped without an end it counts as CANCELLED: the client went away.
pub(crate) struct Call {
    method: Method,
    running: Gauge,
    pub(crate) report: Arc<Report>,
    pub(crate) place: Place,
    /// Makes a drain wait for it.
    work: Option<TaskTrackerToken>,
    /// One of the calls of its connection that need no key.
    pub(crate) look: Option<OwnedSemaphorePermit>,
    ended: bool,
}

impl Call {
    pub(crate) fn begin(method: Method, report: Report) -> Self {
        let running = gauge!(CALLS, "method" => method.label());
        running.increment(1.0);
        Self {
            method,
            running,
            report: Arc::new(report),
            place: Place::default(),
            work: None,
            look: None,
            ended: false,
        }
    }

    /// What was called.
    pub(crate) fn method(&self) -> Method {
        self.method
    }

    /// A drain waits for its end.
    pub(crate) fn hold(&mut self, work: TaskTrackerToken) {
        self.work = Some(work);
    }

    /// What is said of it beside its status: what work cost until now.
    fn trailers(&self) -> MetadataMap {
        match self.method.role() {
            Role::Work => self.report.trailers(),
            Role::Control => MetadataMap::new(),
        }
    }

    /// Counts the end and writes its line. Later ends are ignored.
    pub(crate) fn end(&mut self, ending: Ending) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let (method, code) = (self.method.label(), code_name(ending.code));
        counter!(REQUESTS, "method" => method, "code" => code).increment(1);
        if let Some(reason) = ending.reason {
            counter!(CALL_ERRORS, "method" => method, "reason" => reason).increment(1);
        }
        self.running.decrement(1.0);
        self.report.end(self.method, ending);
        self.place.clear();
        (self.work, self.look) = (None, None);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Ending::CANCELLED);
    }
}

/// The answer of one call, as the sweeper sees it too: whoever reads it may never come back.
pub(crate) struct Answer {
    state: Mutex<State>,
    /// Ends the connection it belongs to.
    connection: CancellationToken,
}

enum State {
    Running(Box<Running>),
    /// Ended while nobody read it: what to say when somebody does.
    Swept {
        status: Status,
        since: Stopwatch,
    },
    Done,
}

struct Running {
    body: Sliced,
    call: Call,
    ends: Option<Deadline>,
    stage: Stage,
    /// Whoever waits for the next frame.
    reader: Option<Waker>,
}

/// A body in slices: what the transport has no room for stays here, where it can be swept.
pub(crate) struct Sliced {
    body: Body,
    /// What is left of the last frame.
    rest: Bytes,
}

/// Who waits for whom.
#[derive(Clone, Copy)]
enum Stage {
    /// The reader has a slice, and has not asked for another since then.
    Delivered(Stopwatch),
    /// The reader has asked.
    Waiting,
}

impl Answer {
    /// An answer that must end by `ends`.
    pub(crate) fn new(
        body: Body,
        call: Call,
        ends: Option<Deadline>,
        connection: CancellationToken,
    ) -> Arc<Self> {
        let running = Running {
            body: Sliced::new(body),
            call,
            ends,
            stage: Stage::Delivered(Stopwatch::start()),
            reader: None,
        };
        Arc::new(Self {
            state: Mutex::new(State::Running(Box::new(running))),
            connection,
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Panics of a body are caught before they pass the guard.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched for Answer {
    fn sweep(&self, rules: &Rules) -> bool {
        let mut state = self.state();
        let fault = match &*state {
            State::Done => return false,
            State::Swept { since, .. } => {
                let gone = since.elapsed() >= rules.stall_timeout;
                if gone {
                    self.connection.cancel();
                }
                return !gone;
            }
            State::Running(running) => running.verdict(rules),
        };
        let Some(fault) = fault else { return true };
        let State::Running(mut running) = std::mem::replace(&mut *state, State::Done) else {
            return false;
        };
        let status = fault.into_status(running.call.trailers());
        let ending = Ending::of(&status);
        *state = State::Swept {
            status,
            since: Stopwatch::start(),
        };
        drop(state);
        running.call.end(ending);
        let reader = running.reader.take();
        // What makes the body may take its time to end; nobody waits for it here.
        drop(running);
        if let Some(reader) = reader {
            reader.wake();
        }
        true
    }
}

impl Running {
    fn verdict(&self, rules: &Rules) -> Option<Fault> {
        if self.ends.is_some_and(Deadline::has_passed) {
            return Some(Fault::deadline());
        }
        let control = self.call.method.role() == Role::Control;
        match self.stage {
            Stage::Delivered(since) => {
                let unread = since.elapsed();
                if unread >= rules.stall_timeout {
                    return Some(Fault::consumer_too_slow());
                }
                if unread < rules.linger {
                    return None;
                }
                if rules.aborts || rules.leaves && control {
                    return Some(Fault::draining());
                }
                self.call.report.is_aborted().then(Fault::aborted)
            }
            Stage::Waiting if rules.aborts_all || rules.leaves && control => {
                Some(Fault::draining())
            }
            Stage::Waiting => None,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let body = &mut self.body;
        let polled = catch_unwind(AssertUnwindSafe(|| body.poll_slice(context)));
        let Ok(mut polled) = polled else {
            counter!(PANICS).increment(1);
            let status = Fault::panic().into_status(self.call.trailers());
            self.body = Sliced::new(Body::empty());
            self.call.end(Ending::of(&status));
            return Poll::Ready(Some(Ok(Frame::trailers(trailers(&status)))));
        };
        match &mut polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_mut()
                    && self.call.method.role() == Role::Work
                {
                    self.call.report.add_to(trailers);
                }
                if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
                    self.call.end(Ending::of(&status));
                }
            }
            Poll::Ready(Some(Err(status))) => self.call.end(Ending::of(status)),
            Poll::Ready(None) => self.call.end(Ending::OK),
            Poll::Pending => {}
        }
        self.stage = if polled.is_ready() {
            Stage::Delivered(Stopwatch::start())
        } else {
            let waits = self.reader.as_ref();
            if !waits.is_some_and(|waker| waker.will_wake(context.waker())) {
                self.reader = Some(context.waker().clone());
            }
            Stage::Waiting
        };
        polled
    }
}

impl Sliced {
    pub(crate) fn new(body: Body) -> Self {
        let rest = Bytes::new();
        Self { body, rest }
    }

    /// The next frame, of at most `SLICE_BYTES` where it is data. The body is asked only after the
    /// last slice of its last frame was taken and more is asked for.
    pub(crate) fn poll_slice(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let slice = self.rest.split_to(self.rest.len().min(SLICE_BYTES));
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    pub(crate) fn is_end(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    /// How long what is left of it is.
    pub(crate) fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let exact = self.body.size_hint().exact();
        exact.map_or_else(SizeHint::default, |body| SizeHint::with_exact(body + rest))
    }
}

/// The body of an answer. A panic while it is made costs this call alone.
pub(crate) struct CallBody<G> {
    answer: Arc<Answer>,
    /// Lives as long as the connection has something to send.
    _open: G,
}

impl<G> CallBody<G> {
    pub(crate) fn new(answer: Arc<Answer>, open: G) -> Self {
        Self {
            answer,
            _open: open,
        }
    }
}

impl<G: Unpin> http_body::Body for CallBody<G> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut state = self.answer.state();
        match &mut *state {
            State::Running(running) => {
                let polled = running.poll(context);
                if running.call.ended {
                    *state = State::Done;
                }
                polled
            }
            State::Swept { status, .. } => {
                let last = Frame::trailers(trailers(status));
                *state = State::Done;
                Poll::Ready(Some(Ok(last)))
            }
            State::Done => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &*self.answer.state() {
            State::Running(running) => running.body.is_end(),
            State::Swept { .. } => false,
            State::Done => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &*self.answer.state() {
            // Trailers may come at any time.
            State::Running(_) | State::Swept { .. } => SizeHint::default(),
            State::Done => SizeHint::with_exact(0),
        }
    }
}

impl<G> Drop for CallBody<G> {
    /// The client went away, or has everything.
    fn drop(&mut self) {
        let state = std::mem::replace(&mut *self.answer.state(), State::Done);
        drop(state);
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // A status made of a `Fault` has nothing that a header cannot hold.
    drop(status.add_header(&mut headers));
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Data, then trailers.
    struct Whole {
        data: Option<Bytes>,
        trailers: Option<HeaderMap>,
    }

    impl http_body::Body for Whole {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            let data = self.data.take().map(Frame::data);
            let frame = data.or_else(|| self.trailers.take().map(Frame::trailers));
            Poll::Ready(frame.map(Ok))
        }

        fn is_end_stream(&self) -> bool {
            self.data.is_none() && self.trailers.is_none()
        }
    }

    /// The lengths of all data frames of `whole`, what they hold together, and whether the body
    /// said after one of them that nothing follows.
    fn slices(whole: Whole) -> (Vec<usize>, Vec<u8>, bool) {
        let (mut lengths, mut all, mut ended) = (Vec::new(), Vec::new(), false);
        let mut body = Sliced::new(Body::new(whole));
        let mut context = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(frame)) = body.poll_slice(&mut context) {
            let Ok(data) = frame.unwrap().into_data() else {
                assert!(body.is_end());
                break;
            };
            assert!(!ended, "more after the end");
            ended = body.is_end();
            lengths.push(data.len());
            all.extend_from_slice(&data);
        }
        (lengths, all, ended)
    }

    #[test]
    fn a_large_frame_comes_in_slices_and_ends_after_the_last() {
        let pattern: Vec<u8> = (0..40_000_u32).map(|index| index as u8).collect();
        for (length, expected) in [
            (0, vec![0]),
            (1, vec![1]),
            (SLICE_BYTES, vec![SLICE_BYTES]),
            (SLICE_BYTES + 1, vec![SLICE_BYTES, 1]),
            (
                40_000,
                vec![SLICE_BYTES, SLICE_BYTES, 40_000 - 2 * SLICE_BYTES],
            ),
        ] {
            for trailers in [None, Some(HeaderMap::new())] {
                let followed = trailers.is_some();
                let data = Some(Bytes::copy_from_slice(&pattern[..length]));
                let (lengths, all, ended) = slices(Whole { data, trailers });
                assert_eq!(lengths, expected);
                assert_eq!(all, pattern[..length]);
                assert_eq!(ended, !followed, "{length} bytes");
            }
        }
    }
}

//! One call with all its attempts: its name, its metadata and its deadline.

use std::error::Error as _;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status, TimeoutExpired};

use crate::error::Error;
use crate::retry::{Retry, random};

const REQUEST_ID: &str = "x-request-id";

#[derive(Debug)]
pub(crate) struct Call {
    request_id: String,
    metadata: MetadataMap,
    end: Option<Instant>,
    retry: Retry,
    attempt: u32,
}

impl Call {
    /// A call that begins now. A name in the caller's metadata stays.
    pub(crate) fn begin(metadata: MetadataMap, timeout: Option<Duration>, retry: Retry) -> Self {
        let mut call = Self {
            request_id: String::new(),
            metadata,
            end: timeout.and_then(|timeout| now().checked_add(timeout)),
            retry,
            attempt: 1,
        };
        if let Some(given) = call.metadata.get(REQUEST_ID) {
            call.request_id = given.to_str().unwrap_or_default().to_owned();
        } else {
            call.request_id = format!("{:016x}{:016x}", random(), random());
            if let Ok(value) = call.request_id.parse() {
                call.metadata.insert(REQUEST_ID, value);
            }
        }
        call
    }

    /// The message of the next attempt, with what is left of the deadline.
    pub(crate) fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        request.metadata_mut().clone_from(&self.metadata);
        if let Some(remaining) = self.remaining() {
            request.set_timeout(remaining);
        }
        request
    }

    /// Waits for an answer until the deadline.
    pub(crate) async fn bound<T>(
        &self,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let Some(end) = self.end else {
            return answer.await.map_err(called_right);
        };
        match timeout_at(end, answer).await {
            Ok(answer) => answer.map_err(called_right),
            Err(_) => Err(passed()),
        }
    }

    /// Waits for the next attempt; fails if there is none, as there is none after the first token.
    pub(crate) async fn again(&mut self, status: Status, tokens: bool) -> Result<(), Error> {
        let error = self.error(status, tokens);
        if tokens {
            return Err(error);
        }
        let Some(pause) = self.retry.pause(self.attempt, &error, self.remaining()) else {
            return Err(error);
        };
        self.attempt += 1;
        sleep(pause).await;
        Ok(())
    }

    pub(crate) fn error(&self, status: Status, tokens: bool) -> Error {
        Error::new(status, &self.request_id, tokens)
    }

    fn remaining(&self) -> Option<Duration> {
        self.end.map(|end| end.saturating_duration_since(now()))
    }
}

fn passed() -> Status {
    Status::deadline_exceeded("the deadline has passed")
}

/// What tonic's channel says of itself, in the words of a server. It keeps the time of `grpc-timeout`
/// too, may be first by a moment, and calls that CANCELLED. A connection that is left, closes or breaks
/// under a call is INTERNAL, CANCELLED or UNKNOWN to it. A status that a server sent has no cause.
fn called_right(status: Status) -> Status {
    let mut unknown = status.code() == Code::Unknown;
    let mut cause = status.source();
    if cause.is_none() {
        return status;
    }
    while let Some(error) = cause {
        if error.is::<TimeoutExpired>() {
            return passed();
        }
        let connection = error.downcast_ref::<h2::Error>();
        let closed = error.downcast_ref::<hyper::Error>();
        unknown |= connection.is_some_and(h2::Error::is_go_away);
        unknown |= closed.is_some_and(hyper::Error::is_canceled);
        cause = error.source();
    }
    if unknown {
        return Status::unavailable(format!("the connection broke: {}", status.message()));
    }
    status
}

#[expect(
    clippy::disallowed_methods,
    reason = "a caller's deadline is a time of its own; the ban keeps clocks out of the server"
)]
fn now() -> Instant {
    Instant::now()
}

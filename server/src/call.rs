//! One gRPC call from its first byte to its last: counted once, with the code it ended with.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use metrics::{Gauge, counter, gauge};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::edge::Admission;
use crate::method::Method;
use crate::metrics::{CALLS, PANICS, REQUESTS};
use crate::status::{Fault, code_name};

/// A call that runs. Dropped without an end it counts as CANCELLED: the client went away.
pub(crate) struct Call {
    method: Method,
    running: Gauge,
    admission: Option<Admission>,
    ended: bool,
}

impl Call {
    pub(crate) fn begin(method: Method) -> Self {
        let running = gauge!(CALLS, "method" => method.label());
        running.increment(1.0);
        Self {
            method,
            running,
            admission: None,
            ended: false,
        }
    }

    /// Keeps a place until the end.
    pub(crate) fn hold(&mut self, admission: Option<Admission>) {
        self.admission = admission;
    }

    /// Counts the end. Later ends are ignored.
    pub(crate) fn end(&mut self, code: Code) {
        if !std::mem::replace(&mut self.ended, true) {
            let (method, code) = (self.method.label(), code_name(code));
            counter!(REQUESTS, "method" => method, "code" => code).increment(1);
            self.running.decrement(1.0);
            self.admission = None;
            tracing::debug!(method, code, "call ended");
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// The body of an answer. A panic while it is made costs this call alone.
pub(crate) struct CallBody {
    body: Body,
    call: Call,
}

impl CallBody {
    pub(crate) fn new(body: Body, call: Call) -> Self {
        Self { body, call }
    }
}

impl http_body::Body for CallBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Self { body, call } = self.get_mut();
        let polled = catch_unwind(AssertUnwindSafe(|| {
            Pin::new(&mut *body).poll_frame(context)
        }));
        let Ok(polled) = polled else {
            counter!(PANICS).increment(1);
            *body = Body::empty();
            call.end(Code::Internal);
            return Poll::Ready(Some(Ok(Frame::trailers(trailers(&Fault::panic().into())))));
        };
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
                    call.end(status.code());
                }
            }
            Poll::Ready(Some(Err(status))) => call.end(status.code()),
            Poll::Ready(None) => call.end(Code::Ok),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // A status made of a `Fault` has nothing that a header cannot hold.
    drop(status.add_header(&mut headers));
    headers
}

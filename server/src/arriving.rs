//! The body of a request, with a limit on the time that its message may take to arrive.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;
use tonic::Status;

use crate::clock::Deadline;
use crate::status::Fault;

/// A body that ends with an error when it is not there in time.
pub(crate) struct Arriving<B> {
    body: B,
    by: Option<Deadline>,
    /// Made when the body is first waited for; most are there at once.
    overdue: Option<Pin<Box<Sleep>>>,
}

impl<B> Arriving<B> {
    /// A body that has to be there `timeout` from now, if there is a limit.
    pub(crate) fn new(body: B, timeout: Option<Duration>) -> Self {
        Self {
            body,
            by: timeout.map(Deadline::after),
            overdue: None,
        }
    }
}

impl<B> Body for Arriving<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            let error = |error| Status::from_error(Box::new(error));
            return Poll::Ready(frame.map(|frame| frame.map_err(error)));
        }
        let Some(by) = this.by else {
            return Poll::Pending;
        };
        let overdue = this.overdue.get_or_insert_with(|| Box::pin(by.sleep()));
        overdue.as_mut().poll(context).map(|()| {
            this.by = None;
            Some(Err(Fault::message_overdue().into()))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! The body of a request: what of a message is there in part is counted, and what does not arrive in
//! time is not waited for. Nobody looks at a message before it is whole, not even at who may send it
//! how often, so this is all that bounds what clients can make the server keep.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;
use tonic::Status;

use crate::clock::Deadline;
use crate::limits::ARRIVING_BYTES_FREE;
use crate::status::Fault;

/// The bytes of messages that are there in part, all calls together.
#[derive(Clone, Debug)]
pub(crate) struct Parts(Arc<Count>);

#[derive(Debug)]
struct Count {
    bytes: AtomicUsize,
    bytes_max: usize,
}

impl Parts {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let bytes = AtomicUsize::new(0);
        Self(Arc::new(Count { bytes, bytes_max }))
    }

    /// What one call has of them, nothing yet.
    fn share(&self) -> Share {
        Share {
            parts: self.clone(),
            bytes: 0,
        }
    }
}

/// What one call has of all parts; given back when it is dropped.
#[derive(Debug)]
struct Share {
    parts: Parts,
    bytes: usize,
}

impl Share {
    /// Has `bytes` from now on; as many as before if that would be too many.
    fn resize(&mut self, bytes: usize) -> Result<(), Fault> {
        let Count {
            bytes: all,
            bytes_max,
        } = &*self.parts.0;
        if let Some(more) = bytes.checked_sub(self.bytes) {
            let before = all.fetch_add(more, Ordering::Relaxed);
            if more > 0 && before.saturating_add(more) > *bytes_max {
                all.fetch_sub(more, Ordering::Relaxed);
                let message = "too many large messages arrive at once";
                return Err(Fault::queue_full(message).with("bytes_max", *bytes_max));
            }
        } else {
            all.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.parts.0.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Where a body stands between its messages, each of which is a flag, four bytes of length, and as many
/// bytes.
#[derive(Debug, Default)]
struct Framing {
    head: [u8; 5],
    head_there: usize,
    /// Bytes of the message that are there, and those that are not.
    there: usize,
    missing: usize,
}

impl Framing {
    /// Goes on by what has arrived; answers how many bytes of an unfinished message are there.
    fn advance(&mut self, mut data: &[u8]) -> usize {
        while !data.is_empty() {
            let taken = if self.missing == 0 {
                let taken = data.len().min(self.head.len() - self.head_there);
                self.head[self.head_there..][..taken].copy_from_slice(&data[..taken]);
                self.head_there += taken;
                if self.head_there == self.head.len() {
                    let [_flag, length @ ..] = self.head;
                    (self.head_there, self.there) = (0, 0);
                    self.missing = u32::from_be_bytes(length) as usize;
                }
                taken
            } else {
                let taken = data.len().min(self.missing);
                (self.there, self.missing) = (self.there + taken, self.missing - taken);
                taken
            };
            data = &data[taken..];
        }
        if self.missing == 0 { 0 } else { self.there }
    }
}

/// A body that ends with an error when there is no room for it, or when it is not there in time.
pub(crate) struct Arriving<B> {
    body: B,
    is_stream: bool,
    by: Option<Deadline>,
    /// Made when the body is first waited for; most are there at once.
    overdue: Option<Pin<Box<Sleep>>>,
    framing: Framing,
    share: Share,
}

impl<B> Arriving<B> {
    /// The body of one message, which has to be there `timeout` from now; without that time, of a stream.
    pub(crate) fn new(body: B, timeout: Option<Duration>, parts: &Parts) -> Self {
        Self {
            body,
            is_stream: timeout.is_none(),
            by: timeout.map(Deadline::after),
            overdue: None,
            framing: Framing::default(),
            share: parts.share(),
        }
    }

    fn count(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, Status> {
        if let Some(data) = frame.data_ref() {
            let there = self.framing.advance(data);
            self.share
                .resize(there.saturating_sub(ARRIVING_BYTES_FREE))?;
        }
        Ok(frame)
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
        match Pin::new(&mut this.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => return Poll::Ready(Some(this.count(frame))),
            Poll::Ready(None) if this.is_stream || this.body.is_end_stream() => {
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Err(error))) if this.is_stream => {
                return Poll::Ready(Some(Err(Status::from_error(Box::new(error)))));
            }
            // The client has taken its call back or is gone, and nobody is there to be told that half a message
            // is wrong. The transport drops the call when it sees that it waits. A stream may be read by
            // a task that the transport does not know, so it has to end.
            Poll::Ready(Some(Err(_)) | None) | Poll::Pending => {}
        }
        let Some(by) = this.by else {
            return Poll::Pending;
        };
        let overdue = this.overdue.get_or_insert_with(|| Box::pin(by.sleep()));
        ready!(overdue.as_mut().poll(context));
        this.by = None;
        Poll::Ready(Some(Err(Fault::message_overdue().into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend((length as u32).to_be_bytes());
        bytes.extend(vec![7; length]);
        bytes
    }

    #[test]
    fn a_part_is_what_is_there_of_the_last_message() {
        let body = [framed(3), framed(0), framed(700), framed(5), framed(0)].concat();
        let part_at = |end: usize| match end {
            0..8 => end.saturating_sub(5),
            13..718 => end.saturating_sub(18),
            718..728 => end.saturating_sub(723),
            _ => 0,
        };
        for piece in [1, 2, 3, 5, 7, 64, body.len()] {
            let (mut framing, mut end) = (Framing::default(), 0);
            for data in body.chunks(piece) {
                end += data.len();
                assert_eq!(framing.advance(data), part_at(end), "{end} by {piece}");
            }
        }
    }

    #[test]
    fn parts_are_counted_together_and_given_back() {
        let parts = Parts::new(100);
        let (mut one, mut other) = (parts.share(), parts.share());
        one.resize(60).unwrap();
        other.resize(40).unwrap();
        other.resize(41).unwrap_err();
        one.resize(10).unwrap();
        other.resize(90).unwrap();
        one.resize(10).unwrap();
        drop(other);
        one.resize(100).unwrap();
        drop(one);
        assert_eq!(parts.0.bytes.load(Ordering::Relaxed), 0);
    }
}

//! The body of a page. Whoever asked for it may never read it; then its connection ends, as with an
//! answer of gRPC that nobody reads.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;

use crate::call::Sliced;
use crate::clock::Stopwatch;
use crate::sweeper::{Rules, Watched};

/// A page on its way, as the sweeper sees it.
#[derive(Debug)]
pub(crate) struct Page {
    /// When it was last asked for more.
    asked: Mutex<Stopwatch>,
    /// Ends the connection it belongs to.
    connection: CancellationToken,
}

impl Page {
    pub(crate) fn new(connection: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            asked: Mutex::new(Stopwatch::start()),
            connection,
        })
    }

    fn asked(&self) -> MutexGuard<'_, Stopwatch> {
        // Nothing that can panic is done while it is locked.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched for Page {
    fn sweep(&self, rules: &Rules) -> bool {
        let stalled = self.asked().elapsed() >= rules.stall_timeout;
        if stalled {
            self.connection.cancel();
        }
        !stalled
    }
}

/// Hands a page out in slices.
pub(crate) struct PageBody<G> {
    body: Sliced,
    page: Arc<Page>,
    /// Lives as long as the connection has something to send.
    _open: G,
}

impl<G> PageBody<G> {
    pub(crate) fn new(body: Body, page: Arc<Page>, open: G) -> Self {
        Self {
            body: Sliced::new(body),
            page,
            _open: open,
        }
    }
}

impl<G: Unpin> http_body::Body for PageBody<G> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        *self.page.asked() = Stopwatch::start();
        self.body.poll_slice(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::{BodyExt as _, Full};

    use super::*;

    #[tokio::test]
    async fn a_page_comes_whole_and_says_how_long_it_is() {
        let text: Vec<u8> = (0..40_000_u32).map(|index| index as u8).collect();
        let body = Body::new(Full::new(Bytes::from(text.clone())));
        let page = Page::new(CancellationToken::new());
        let mut body = PageBody::new(body, page, ());
        assert_eq!(body.size_hint().exact(), Some(40_000));
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(first.len() < 40_000 && !body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(40_000 - first.len() as u64));
        let rest = body.collect().await.unwrap().to_bytes();
        assert_eq!([first, rest].concat(), text);
    }
}

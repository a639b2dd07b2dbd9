//! How the process comes to its end: what has been asked, what is refused, what still runs.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// The stages of a drain, each a token that is cancelled once and stays so.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle {
    /// Somebody asked for a drain: a signal or `Control.Drain`.
    pub drain_asked: CancellationToken,
    /// Health says NOT_SERVING; new work is refused from here on.
    pub draining: CancellationToken,
    /// What still runs ends now.
    pub abort: CancellationToken,
    /// No work is left: watchers are told to leave.
    pub(crate) leaving: CancellationToken,
    work: TaskTracker,
}

impl Lifecycle {
    /// Counts one call as work until the token is dropped.
    pub(crate) fn work(&self) -> TaskTrackerToken {
        self.work.token()
    }

    /// How many calls of `Inference` run.
    pub(crate) fn running(&self) -> usize {
        self.work.len()
    }

    /// Returns when no call runs and none will be counted as new.
    pub(crate) async fn idle(&self) {
        self.work.close();
        self.work.wait().await;
    }
}

//! How the process comes to its end: what has been asked, what is refused, what still runs.

use futures_util::{Stream, StreamExt as _};
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
    /// The first signal asks for a drain, the second one ends what still runs, whoever asked for
    /// the drain. Run as a task of its own, from before anything that takes time.
    pub async fn follow(self, signals: impl Stream<Item = ()>) {
        let mut signals = std::pin::pin!(signals);
        if signals.next().await.is_some() {
            tracing::info!("signal received, draining; a second one ends what still runs");
            self.drain_asked.cancel();
        }
        if signals.next().await.is_some() {
            self.abort.cancel();
        }
    }

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

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn the_second_signal_aborts_whoever_asked_for_the_drain() {
        let asked = |lifecycle: &Lifecycle| {
            let tokens = [&lifecycle.drain_asked, &lifecycle.abort];
            tokens.map(CancellationToken::is_cancelled)
        };
        for by_call in [false, true] {
            let one = Lifecycle::default();
            let two = Lifecycle::default();
            if by_call {
                one.drain_asked.cancel();
                two.drain_asked.cancel();
            }
            one.clone().follow(stream::iter([()])).await;
            assert_eq!(asked(&one), [true, false]);
            two.clone().follow(stream::iter([(), ()])).await;
            assert_eq!(asked(&two), [true, true]);
        }
    }
}

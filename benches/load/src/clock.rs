//! The generator's clock: time since a run began. No other file here reads the time.
#![expect(
    clippy::disallowed_methods,
    reason = "the one clock of the generator, which everything else asks"
)]

use std::time::Duration;

use tokio::time::Instant;

/// Counts from the begin of a run. Copies count from the same moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// The run begins now.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the begin.
    pub(crate) fn now(self) -> Duration {
        self.0.elapsed()
    }

    /// Returns at a time of the run.
    pub(crate) async fn sleep_until(self, time: Duration) {
        tokio::time::sleep_until(self.0 + time).await;
    }
}

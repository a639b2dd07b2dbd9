//! The harness's clock. No other file of it reads the time.
#![expect(clippy::disallowed_methods, reason = "a harness measures")]

use std::time::Duration;

use tokio::time::Instant;

/// Counts from its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    /// Whole milliseconds since its start.
    pub(crate) fn ms(self) -> u64 {
        self.elapsed().as_millis() as u64
    }
}

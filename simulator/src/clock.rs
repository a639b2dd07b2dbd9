//! The wall clock: how long a run takes. Nothing that is simulated knows it.
#![expect(
    clippy::disallowed_methods,
    reason = "the one clock of the simulator, for its speed and its progress"
)]

use std::time::Instant;

/// Counts from its making.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// Counts from now.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Seconds since then.
    pub(crate) fn seconds(self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}

//! The one place that reads a clock. Everything else takes time as an argument.

use std::fmt::Debug;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use scheduler::request::Micros;

/// Time as an engine sees it: monotone, from an origin of its own.
///
/// Handles, loops and watchdogs of one engine share one clock, so that tests drive all of them by
/// hand (`fake::ManualClock`).
pub trait Clock: Debug + Send + Sync {
    /// Microseconds since the clock's origin. Never goes back.
    fn now(&self) -> Micros;
    /// How long a thread that waits for `until` may sleep before it looks at the clock again;
    /// `None` when only a jump can bring `until` nearer.
    fn sleep_max(&self, until: Micros) -> Option<Duration>;
    /// Asks for `wake` to be called whenever time jumps. A clock that flows never calls it.
    fn on_jump(&self, wake: Box<dyn Fn() + Send + Sync>);
}

/// The clock of the operating system.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl Default for SystemClock {
    /// A clock whose origin is now.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one clock that everything else is handed"
    )]
    fn default() -> Self {
        Self {
            origin: Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Micros {
        // Micros fit 64 bits for half a million years.
        Micros(self.origin.elapsed().as_micros() as u64)
    }

    fn sleep_max(&self, until: Micros) -> Option<Duration> {
        Some(Duration::from_micros(until.0.saturating_sub(self.now().0)))
    }

    fn on_jump(&self, _wake: Box<dyn Fn() + Send + Sync>) {}
}

/// Seconds since 1970-01-01 00:00 UTC, for what writes the date; zero on a machine that is set before.
#[expect(
    clippy::disallowed_methods,
    reason = "the one look at the calendar, which decides nothing"
)]
pub fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as i64)
}

/// `time` plus `duration`; a time that cannot be written is never reached.
pub(crate) fn after(time: Micros, duration: Duration) -> Micros {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    Micros(time.0.saturating_add(micros))
}

/// The time from `start` to `end`; zero when `end` is earlier.
pub(crate) fn between(start: Micros, end: Micros) -> Duration {
    Duration::from_micros(end.0.saturating_sub(start.0))
}

/// As [`between`], in seconds.
pub(crate) fn seconds(start: Micros, end: Micros) -> f64 {
    between(start, end).as_secs_f64()
}

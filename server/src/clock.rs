//! The edge's clock: how long something took, and when it must have ended. No other file of the
//! edge reads the time.
#![expect(
    clippy::disallowed_methods,
    reason = "the one clock of the edge, which everything else asks"
)]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, Sleep};

/// The time engines have to report a deadline.
const GRACE: Duration = Duration::from_millis(100);

/// Counts from its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    /// Begins now.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since its start.
    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// What quotas go by: the time since it was made, or what a test says.
#[derive(Clone)]
pub struct EdgeClock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl EdgeClock {
    /// A clock that stands at whatever `now` says.
    pub fn manual(now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time now.
    pub(crate) fn now(&self) -> Duration {
        (self.0)()
    }
}

impl Default for EdgeClock {
    fn default() -> Self {
        let begun = Stopwatch::start();
        Self(Arc::new(move || begun.elapsed()))
    }
}

impl std::fmt::Debug for EdgeClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("EdgeClock").field(&self.now()).finish()
    }
}

/// The time of day, for those who compare it with other machines.
pub(crate) fn time_of_day() -> SystemTime {
    SystemTime::now()
}

/// The end of a call's time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// `time` from now.
    pub(crate) fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// This one, or `time` from now, whichever is earlier.
    pub(crate) fn or_after(self, time: Option<Duration>) -> Self {
        match time.and_then(|time| Instant::now().checked_add(time)) {
            Some(other) => Self(self.0.min(other)),
            None => self,
        }
    }

    /// The time that is left; zero when it has passed.
    pub(crate) fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Fires at this time.
    pub(crate) fn sleep(self) -> Sleep {
        tokio::time::sleep_until(self.0)
    }

    /// Fires a moment after this time. Engines end their requests by themselves, and say more about
    /// them; this is for an engine that hangs.
    pub(crate) fn overdue(self) -> Sleep {
        tokio::time::sleep_until(self.0 + GRACE)
    }

    /// A later one, for whoever watches over those who watch this one.
    pub(crate) fn with_grace(self) -> Self {
        Self(self.0 + 2 * GRACE)
    }

    /// Whether it is over.
    pub(crate) fn has_passed(self) -> bool {
        self.remaining().is_zero()
    }

    /// Runs `work` until this time; `None` when it was not done by then.
    pub(crate) async fn limit<F: Future>(self, work: F) -> Option<F::Output> {
        tokio::time::timeout_at(self.0, work).await.ok()
    }
}

/// The time of a `grpc-timeout` header: at most eight digits and a unit. `None` if malformed.
pub(crate) fn parse_grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_are_read_as_the_protocol_writes_them() {
        let read = |text: &str| parse_grpc_timeout(text.as_bytes());
        assert_eq!(read("1H"), Some(Duration::from_hours(1)));
        assert_eq!(read("2M"), Some(Duration::from_mins(2)));
        assert_eq!(read("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(read("300m"), Some(Duration::from_millis(300)));
        assert_eq!(read("5u"), Some(Duration::from_micros(5)));
        assert_eq!(read("7n"), Some(Duration::from_nanos(7)));
        for malformed in [
            "",
            "S",
            "10",
            "9999999999S",
            "abc",
            "-1S",
            "1.5S",
            "1 S",
            "1s",
        ] {
            assert_eq!(read(malformed), None, "{malformed}");
        }
    }
}

//! How often something is tried again, and when. An attempt that brought something costs nothing.

use std::time::{Duration, SystemTime};

use ureq::http::HeaderMap;

use crate::clock::{Clock, Stop};
use crate::error::HubError;
use crate::http::text;
use crate::observe::{Event, Observer};

/// How an attempt failed.
#[derive(Debug)]
pub(crate) enum Failed {
    /// Another one would fail too.
    Finally(HubError),
    /// Another one may succeed.
    Again {
        /// What went wrong.
        error: HubError,
        /// What the server says about when.
        after: Option<Duration>,
        /// Whether it brought so much that it does not count as failed.
        advanced: bool,
    },
}

impl From<HubError> for Failed {
    /// Connections break and servers stumble; everything else stays as it is, a wrong certificate too.
    fn from(error: HubError) -> Self {
        match error {
            HubError::Network { .. } => Self::Again {
                error,
                after: None,
                advanced: false,
            },
            error => Self::Finally(error),
        }
    }
}

/// What attempts need from outside.
pub(crate) struct Attempts<'a> {
    pub(crate) clock: &'a dyn Clock,
    pub(crate) observer: &'a dyn Observer,
    pub(crate) stop: &'a Stop,
}

impl Attempts<'_> {
    /// Tries until it succeeds or is not worth another attempt.
    pub(crate) fn run<T>(
        &self,
        mut attempt: impl FnMut() -> Result<T, Failed>,
    ) -> Result<T, HubError> {
        let mut failures = 0;
        loop {
            if self.stop.is_set() {
                return Err(HubError::Stopped);
            }
            let (error, after, advanced) = match attempt() {
                Ok(done) => return Ok(done),
                Err(Failed::Finally(error)) => return Err(error),
                Err(Failed::Again {
                    error,
                    after,
                    advanced,
                }) => (error, after, advanced),
            };
            failures = if advanced { 1 } else { failures + 1 };
            if failures >= ATTEMPTS_MAX {
                return Err(error);
            }
            let wait = after.unwrap_or(WAIT_MIN * 2_u32.pow(failures - 1));
            if wait > WAIT_MAX {
                return Err(error);
            }
            self.observer.note(&Event::Retrying {
                error: error.to_string(),
                wait,
            });
            self.clock.wait(wait, self.stop);
        }
    }
}

/// What a status that is neither success nor an answer means for the next attempt.
pub(crate) fn unsuccessful(
    status: u16,
    place: &str,
    headers: &HeaderMap,
    clock: &dyn Clock,
) -> Failed {
    let place = place.to_owned();
    let after = text(headers, "retry-after").and_then(|text| seconds(&text, clock.date()));
    match status {
        408 | 425 | 429 | 500 | 502 | 503 | 504 => Failed::Again {
            error: match after {
                Some(wait) => HubError::Wait {
                    place,
                    status,
                    wait,
                },
                None => HubError::Status { place, status },
            },
            after,
            advanced: false,
        },
        _ => Failed::Finally(HubError::Status { place, status }),
    }
}

/// Reads `Retry-After`: seconds or a date.
pub(crate) fn seconds(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// Waits of 0.5, 1, 2, 4 and 8 s lie between six attempts.
const ATTEMPTS_MAX: u32 = 6;
const WAIT_MIN: Duration = Duration::from_millis(500);
/// Longer than the hub's own window of rate limits, which is 5 min.
const WAIT_MAX: Duration = Duration::from_secs(330);

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::observe::Unobserved;

    /// Waits for nothing and remembers for how long.
    #[derive(Default)]
    struct Waits(Mutex<Vec<Duration>>);

    impl Clock for Waits {
        fn now(&self) -> Duration {
            self.0.lock().unwrap().iter().sum()
        }

        fn date(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH
        }

        fn wait(&self, time: Duration, _: &Stop) {
            self.0.lock().unwrap().push(time);
        }
    }

    fn again(after: Option<u64>, advanced: bool) -> Failed {
        Failed::Again {
            error: HubError::Stopped,
            after: after.map(Duration::from_secs),
            advanced,
        }
    }

    /// Runs with scripted failures; the waits in milliseconds, and whether it succeeded.
    fn run(script: Vec<Failed>) -> (Vec<u128>, bool) {
        let (waits, stop) = (Waits::default(), Stop::default());
        let attempts = Attempts {
            clock: &waits,
            observer: &Unobserved,
            stop: &stop,
        };
        let mut script = script.into_iter();
        let done = attempts.run(|| script.next().map_or(Ok(()), Err));
        let waits = waits.0.into_inner().unwrap();
        (
            waits.iter().map(Duration::as_millis).collect(),
            done.is_ok(),
        )
    }

    #[test]
    fn failures_are_bounded_and_waits_grow() {
        let failures = |count| (0..count).map(|_| again(None, false)).collect();
        assert_eq!(run(failures(0)), (vec![], true));
        assert_eq!(run(failures(2)), (vec![500, 1000], true));
        assert_eq!(run(failures(5)), (vec![500, 1000, 2000, 4000, 8000], true));
        assert_eq!(run(failures(6)), (vec![500, 1000, 2000, 4000, 8000], false));
        let finally = vec![Failed::Finally(HubError::Stopped)];
        assert_eq!(run(finally), (vec![], false));
    }

    #[test]
    fn a_server_may_say_when() {
        assert_eq!(run(vec![again(Some(7), false)]), (vec![7000], true));
        assert_eq!(run(vec![again(Some(0), false)]), (vec![0], true));
        assert_eq!(run(vec![again(Some(331), false)]), (vec![], false));
    }

    #[test]
    fn attempts_that_advance_do_not_count() {
        let script = (0..50).map(|_| again(None, true)).collect();
        assert_eq!(run(script), (vec![500; 50], true));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let at = |text: &str| seconds(text, SystemTime::UNIX_EPOCH).map(|time| time.as_secs());
        assert_eq!(at("120"), Some(120));
        assert_eq!(at("Thu, 01 Jan 1970 00:01:00 GMT"), Some(60));
        assert_eq!(at("-1"), None);
        assert_eq!(at("soon"), None);
        let late = SystemTime::UNIX_EPOCH + Duration::from_hours(1);
        let past = seconds("Thu, 01 Jan 1970 00:01:00 GMT", late);
        assert_eq!(past, Some(Duration::ZERO));
    }
}

//! When a call is made again. The rule is the same in all of Paternoster's clients.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use tonic::Code;

use crate::error::Error;

/// UNAVAILABLE, and RESOURCE_EXHAUSTED where the server says when to come back, are tried again while
/// no token has arrived and the deadline allows it.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Calls in all; 1 never tries again.
    pub attempts: u32,
    /// The pause before the second attempt; it doubles for each further one.
    pub first: Duration,
    /// The longest of these pauses.
    pub longest: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 4,
            first: Duration::from_millis(100),
            longest: Duration::from_secs(5),
        }
    }
}

impl Retry {
    /// How long to wait after the attempt of this number, from 1; `None` gives up.
    pub(crate) fn pause(
        &self,
        attempt: u32,
        error: &Error,
        remaining: Option<Duration>,
    ) -> Option<Duration> {
        let overloaded = error.code() == Code::ResourceExhausted && error.retry_after().is_some();
        if attempt >= self.attempts || (error.code() != Code::Unavailable && !overloaded) {
            return None;
        }
        let pause = self.length(attempt, error)?;
        remaining
            .is_none_or(|remaining| pause < remaining)
            .then_some(pause)
    }

    fn length(&self, attempt: u32, error: &Error) -> Option<Duration> {
        if let Some(pushback) = error.pushback() {
            // gRFC A6: a value that is negative or not a number means not to try again.
            let digits = pushback.bytes().all(|byte| byte.is_ascii_digit());
            let ms = pushback.parse().ok().filter(|ms| digits && *ms < 1 << 31);
            return ms.map(Duration::from_millis);
        }
        if let Some(told) = error.retry_after() {
            return Some(told);
        }
        let doubled = self.first.saturating_mul(1 << (attempt - 1).min(30));
        let share = 0.8 + 0.4 * (random() as f64 / u64::MAX as f64);
        Some(doubled.min(self.longest).mul_f64(share))
    }
}

/// Chance enough to spread attempts and to name requests.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(())
}

//! The only file here that reads a clock or waits.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Time, as far as downloads need it.
pub trait Clock: Send + Sync {
    /// Since some start; it never goes back.
    fn now(&self) -> Duration;
    /// The date, for servers that name one.
    fn date(&self) -> SystemTime;
    /// Lets time pass, or returns at once when `stop` is set.
    fn wait(&self, time: Duration, stop: &Stop);
}

/// The machine's clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn default() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn date(&self) -> SystemTime {
        SystemTime::now()
    }

    fn wait(&self, time: Duration, stop: &Stop) {
        let set = stop.set.lock().unwrap_or_else(PoisonError::into_inner);
        // A wake-up too early is a wait too short, which harms nobody.
        drop(stop.heard.wait_timeout_while(set, time, |set| !*set));
    }
}

/// Tells all threads of a download that it has failed.
#[derive(Debug, Default)]
pub struct Stop {
    set: Mutex<bool>,
    heard: Condvar,
}

impl Stop {
    /// Tells them.
    pub(crate) fn set(&self) {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.heard.notify_all();
    }

    /// Whether they were told.
    pub fn is_set(&self) -> bool {
        *self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

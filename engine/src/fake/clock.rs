//! A clock that stands still until a test moves it.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use scheduler::request::Micros;

use crate::clock::Clock;

/// Time under a test's control.
#[derive(Default)]
pub struct ManualClock {
    now: Mutex<Micros>,
    wakes: Mutex<Vec<Box<dyn Fn() + Send + Sync>>>,
}

impl ManualClock {
    /// Moves time on and wakes everybody who waits for it.
    pub fn advance(&self, duration: Duration) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        *now = Micros(now.0 + duration.as_micros() as u64);
        drop(now);
        let wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        for wake in wakes.iter() {
            wake();
        }
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Micros {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sleep_max(&self, _until: Micros) -> Option<Duration> {
        None
    }

    fn on_jump(&self, wake: Box<dyn Fn() + Send + Sync>) {
        let mut wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        wakes.push(wake);
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManualClock")
            .field("now", &self.now())
            .finish_non_exhaustive()
    }
}

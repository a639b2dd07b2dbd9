//! What a life shows of itself to the supervisor that watches over it, without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use scheduler::request::Micros;

/// What a life is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pulse {
    /// Its executor is being made.
    Starting,
    /// It has nothing to do.
    Resting,
    /// It works, and last got on at this time.
    Working(Micros),
}

/// The pulse of one life, and how long its steps have been succeeding.
#[derive(Debug, Default)]
pub(crate) struct Beat {
    /// [`STARTING`], [`RESTING`], or [`WORKING`] plus the time it last got on.
    state: AtomicU64,
    /// When the first step was done, plus 1, and when the last one was.
    first_done: AtomicU64,
    last_done: AtomicU64,
}

const STARTING: u64 = 0;
const RESTING: u64 = 1;
const WORKING: u64 = 2;

impl Beat {
    /// A step begins.
    pub(crate) fn begin(&self, now: Micros) {
        self.state.store(WORKING + now.0, Ordering::Release);
    }

    /// A part of the step that runs is done.
    pub(crate) fn get_on(&self, now: Micros) {
        if self.state.load(Ordering::Acquire) >= WORKING {
            self.begin(now);
        }
    }

    /// The executor has completed a step.
    pub(crate) fn done(&self, now: Micros) {
        // Only the life's own thread writes.
        if self.first_done.load(Ordering::Relaxed) == 0 {
            self.first_done.store(now.0 + 1, Ordering::Release);
        }
        self.last_done.store(now.0, Ordering::Release);
    }

    /// The loop is about to sleep.
    pub(crate) fn rest(&self) {
        self.state.store(RESTING, Ordering::Release);
    }

    pub(crate) fn pulse(&self) -> Pulse {
        match self.state.load(Ordering::Acquire) {
            STARTING => Pulse::Starting,
            RESTING => Pulse::Resting,
            working => Pulse::Working(Micros(working - WORKING)),
        }
    }

    /// From the first completed step to the last one.
    pub(crate) fn good_stretch(&self) -> Duration {
        let Some(first) = self.first_done.load(Ordering::Acquire).checked_sub(1) else {
            return Duration::ZERO;
        };
        let last = self.last_done.load(Ordering::Acquire);
        Duration::from_micros(last.saturating_sub(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_tells_what_a_life_does() {
        let beat = Beat::default();
        assert_eq!(beat.pulse(), Pulse::Starting);
        beat.get_on(Micros(5));
        assert_eq!(beat.pulse(), Pulse::Starting, "no step has begun");
        beat.begin(Micros(0));
        assert_eq!(beat.pulse(), Pulse::Working(Micros(0)));
        beat.get_on(Micros(7));
        assert_eq!(beat.pulse(), Pulse::Working(Micros(7)));
        beat.rest();
        beat.get_on(Micros(8));
        assert_eq!(
            beat.pulse(),
            Pulse::Resting,
            "what rests gets on with nothing"
        );
    }

    #[test]
    fn a_good_stretch_reaches_from_the_first_step_done_to_the_last() {
        let beat = Beat::default();
        assert_eq!(beat.good_stretch(), Duration::ZERO);
        let stretches = [0, 0, 9].map(|now| {
            beat.done(Micros(now));
            beat.good_stretch().as_micros()
        });
        assert_eq!(stretches, [0, 0, 9]);
    }
}

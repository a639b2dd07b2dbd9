//! One priority band: the turns of those who wait in it, and where newcomers start.
//!
//! Three numbers are kept on the scale of the counters:
//! - the *floor*, the counter of whoever was served last. Nobody who waits is below it, and nobody's
//!   counter is above it by more than what he got since he was last served;
//! - the *level*, where a newcomer starts. It moves ahead with the work that is given out, divided by
//!   the weights of those who wait, so that no stream of newcomers keeps an old account waiting for
//!   ever;
//! - the *dearest* admission so far: the level is never further above whoever is next.

use std::collections::BTreeSet;

use super::AccountId;
use super::meter::{Meter, SCALE};

/// The order between accounts, smallest first: counter, arrival of the first who waits, account.
pub(super) type Turn = (u64, u64, AccountId);

#[derive(Debug, Default)]
pub(super) struct Band {
    /// One for each account with somebody waiting. The counter in there may be too small.
    pub(super) turns: BTreeSet<Turn>,
    /// The weights of those accounts.
    pub(super) weights: u64,
    floor: u64,
    level: u64,
    dearest: u64,
    /// The cost of what it was given so far.
    pub(super) served: u64,
    /// What higher bands had been given when it last had its turn or began to wait.
    pub(super) mark: u64,
}

impl Band {
    /// Where somebody starts who comes now; `next` is the counter of whoever is next.
    pub(super) fn start(&mut self, next: Option<u64>) -> u64 {
        if let Some(next) = next {
            self.level = self.level.min(next + self.dearest);
        }
        self.level
    }

    /// Where somebody starts who came long ago and comes back.
    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    /// Whether an idle account with this counter would start no higher than a new one.
    pub(super) fn forgets(&self, counter: u64) -> bool {
        counter <= self.level.max(self.floor)
    }

    /// Whoever is next, with `meter`, gets work at this cost.
    pub(super) fn serve(&mut self, meter: &Meter, cost: u64) {
        let counter = meter.counter();
        assert!(counter >= self.floor, "the fair order runs backwards");
        self.floor = counter;
        self.served += cost;
        self.dearest = self.dearest.max(meter.scaled(cost));
        // At least a token, so that newcomers without end do not hold it back.
        let ahead = (cost.saturating_mul(SCALE) / self.weights.max(1)).max(SCALE);
        self.level = self.level.max(counter) + ahead;
    }
}

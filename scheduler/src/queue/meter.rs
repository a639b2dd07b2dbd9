//! The virtual token counter of one tenant in one band: what it used, divided by its weight.
//!
//! Counters are kept in 1/1024 tokens. They are computed from whole sums, so that no rounding adds
//! up, and output tokens are noted one by one at the price of an addition.

use crate::policy::{Prices, Weight};

/// Counter units to one token of a tenant of weight 1.
pub(crate) const SCALE: u64 = 1 << 10;

/// See the module's documentation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Meter {
    weight: Weight,
    /// The counter when it was last lifted, or when the weight changed.
    base: u64,
    /// What was used since, at the prices of [`Prices`].
    used: u64,
    /// Output tokens that are not in `used` yet.
    output: u32,
}

impl Meter {
    /// A counter at zero.
    pub(crate) fn new(weight: Weight) -> Self {
        Self {
            weight,
            ..Self::default()
        }
    }

    /// Its tenant's weight.
    pub(crate) fn weight(&self) -> Weight {
        self.weight
    }

    /// The counter, without the outputs that are not settled.
    pub(crate) fn counter(&self) -> u64 {
        self.base + self.scaled(self.used)
    }

    /// What `cost` adds to the counter.
    pub(crate) fn scaled(&self, cost: u64) -> u64 {
        cost.saturating_mul(SCALE) / u64::from(self.weight.get())
    }

    /// The cost that adds so much to the counter.
    pub(crate) fn cost_of(&self, counter: u64) -> u64 {
        counter.saturating_mul(u64::from(self.weight.get())) / SCALE
    }

    /// The counter is at least `level` from now on: whoever was away has saved nothing up.
    pub(crate) fn lift(&mut self, level: u64) {
        if self.counter() < level {
            self.base = level;
            self.used = 0;
        }
    }

    /// Counts from now on at another weight.
    pub(crate) fn set_weight(&mut self, weight: Weight) {
        self.base = self.counter();
        self.used = 0;
        self.weight = weight;
    }

    /// Adds a cost.
    pub(crate) fn charge(&mut self, cost: u64) {
        self.used += cost;
    }

    /// Notes one output token. Returns whether it is the first since the last settlement.
    pub(crate) fn note_output(&mut self) -> bool {
        self.output += 1;
        self.output == 1
    }

    /// Adds the cost of the outputs noted, and returns it.
    pub(crate) fn settle(&mut self, prices: Prices) -> u64 {
        let outputs = std::mem::take(&mut self.output);
        let cost = u64::from(outputs) * u64::from(prices.output.get());
        self.used += cost;
        cost
    }

    /// Output tokens that are not settled.
    pub(crate) fn unsettled(&self) -> u32 {
        self.output
    }
}

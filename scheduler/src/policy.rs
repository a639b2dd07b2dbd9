//! What a scheduler's owner chooses: prices, patience, shares, targets. Data, fixed at construction.
//!
//! Each choice belongs to one small type: the prices and weights to the queue's accounts, the bands'
//! patience to its bands, shares to its tenants, the wait to the forecast, the step's target to the
//! pacer. The bound that each keeps stands there.

use std::num::NonZeroU32;

use crate::request::Micros;

/// What tokens cost a tenant in the fair order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prices {
    /// One prompt token that was not in the prefix cache.
    pub input: NonZeroU32,
    /// One output token.
    pub output: NonZeroU32,
}

impl Default for Prices {
    /// An output token costs as much as two prompt tokens.
    fn default() -> Self {
        Self {
            input: NonZeroU32::MIN,
            output: NonZeroU32::MIN.saturating_add(1),
        }
    }
}

/// A tenant's share beside those of others: one with weight 2 gets twice the tokens of one with 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(NonZeroU32);

impl Weight {
    /// The weight of a tenant of whom nothing was said.
    pub const ONE: Weight = Weight(NonZeroU32::MIN);

    /// The greatest.
    pub const MAX: u32 = 1000;

    /// A weight of 1 to [`Weight::MAX`].
    pub fn new(weight: u32) -> Option<Self> {
        let weight = NonZeroU32::new(weight)?;
        (weight.get() <= Self::MAX).then_some(Self(weight))
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

/// How much of the queue one tenant may fill, and how much text all may. `None` is no bound besides
/// [`Limits::waiting_max`](crate::limits::Limits::waiting_max).
///
/// While one tenant floods, others are never refused for its sake: with `requests_max` below
/// `waiting_max` by *n*, they may have *n* requests in flight; with `tokens_max` below
/// `all_tokens_max` by *t*, they may have *t* tokens waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// Requests of one tenant in flight, waiting or running. Below `running_max`, one tenant alone
    /// cannot use the whole machine.
    pub requests_max: Option<u32>,
    /// Tokens to compute of one tenant's waiting requests, preempted ones apart. Who has nothing waiting is not refused.
    pub tokens_max: Option<u64>,
    /// Tokens to compute of all waiting requests, preempted ones apart. While nothing waits nobody is refused.
    pub all_tokens_max: Option<u64>,
}

/// Everything that is a choice and not a bound of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What tokens cost.
    pub prices: Prices,
    /// A request is overtaken by later ones of its tenant with earlier deadlines, if they arrive
    /// within this time after it.
    pub patience: Micros,
    /// How much work, at [`Policy::prices`], higher bands get while a lower band waits and before it
    /// is its turn once.
    pub band_patience: u64,
    /// What one tenant may fill.
    pub shares: Shares,
    /// A request is refused when its first token would probably come later than this, or after its
    /// deadline; `None` refuses nobody for that.
    pub wait_max: Option<Micros>,
    /// How long a step may take beside which sequences decode, that is, the time between their
    /// tokens; `None` fills every step.
    pub step_target: Option<Micros>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            prices: Prices::default(),
            patience: Micros(30_000_000),
            band_patience: 65_536,
            shares: Shares::default(),
            wait_max: None,
            step_target: None,
        }
    }
}

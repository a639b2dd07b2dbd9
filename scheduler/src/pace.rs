//! How many prompt positions a step takes beside decodes, so that these keep their target.
//!
//! While sequences decode, a step is planned to last no longer than the target: prompts get what the
//! [`CostModel`] says is left after the decodes. They always get [`PROMPT_TOKENS_MIN`], so that no
//! prompt waits for ever behind decodes that are too slow by themselves. Without decodes, and until
//! the model is believed, a step takes as much as it may.
//!
//! So a step with decodes that lasts longer than the target does so by no more than the model's error,
//! or because its decodes and the least for prompts do.

use crate::cost::{CostModel, StepLoad};
use crate::request::Micros;

/// Prompt positions that a step takes in any case.
pub(crate) const PROMPT_TOKENS_MIN: u32 = 16;

/// What is left of a step for prompts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// Time left, and what positions cost; `None` where time is no bound.
    timed: Option<Timed>,
    /// Prompt positions taken.
    taken: u32,
}

/// In microseconds.
#[derive(Clone, Copy, Debug)]
struct Timed {
    left: f64,
    token: f64,
    kv: f64,
}

impl Pace {
    /// The pace of a step that has these decodes already.
    pub(crate) fn new(target: Option<Micros>, model: &CostModel, decodes: StepLoad) -> Self {
        let timed = match target {
            Some(target) if decodes.rows > 0 && model.is_fitted() => Some(Timed {
                left: target.0 as f64 - model.predict(decodes),
                token: model.prompt_token_us(),
                kv: model.kv_token_us(),
            }),
            _ => None,
        };
        Self { timed, taken: 0 }
    }

    /// How many of `tokens` positions from `start` on the step may take.
    pub(crate) fn allows(&self, start: u32, tokens: u32) -> u32 {
        let Some(Timed { left, token, kv }) = self.timed else {
            return tokens;
        };
        // The chunk reads everything up to its own end.
        let left = left - kv * f64::from(start);
        let cost = token + kv;
        let affordable = if left <= 0.0 {
            0
        } else {
            // Beyond what fits into it saturates.
            (left / cost) as u32
        };
        let least = PROMPT_TOKENS_MIN.saturating_sub(self.taken);
        tokens.min(affordable.max(least))
    }

    /// The step takes `tokens` positions from `start` on.
    pub(crate) fn take(&mut self, start: u32, tokens: u32) {
        self.taken += tokens;
        if let Some(timed) = &mut self.timed {
            let kv = f64::from(start) + f64::from(tokens);
            timed.left -= timed.token * f64::from(tokens) + timed.kv * kv;
        }
    }
}

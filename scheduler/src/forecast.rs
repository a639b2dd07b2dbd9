//! When a request that comes now would get its first token, and whether that is too late.
//!
//! Counted are the prompt tokens that are computed before it gets its own: what running prompts still
//! need, what the fair order puts ahead of it, and its own text, less what the prefix cache has been
//! holding of such texts lately. They take as many steps as they fill; and when slots are short, as
//! many as pass until enough sequences have ended, each of which lives as long as sequences have been
//! living lately. Each of these steps costs what the [`CostModel`] says of as many decodes as there
//! will be, each prompt token its price.
//!
//! It is an estimate of the present: requests that come later and go first are not in it. With costs
//! and lives as predicted, a request that nobody overtakes gets its first token within twice this
//! time and the life of one sequence, for endings come in bursts. While something is unknown, and
//! while nobody waits and a slot is free, there is no forecast and nobody is refused.

use crate::cost::{CostModel, StepLoad};
use crate::pace::Pace;
use crate::request::Micros;

/// What stands before a request in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ahead {
    /// Tokens to compute.
    pub(crate) tokens: u64,
    /// Requests.
    pub(crate) requests: u64,
}

/// What runs at the moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Running {
    /// The decodes of the last step that had any.
    pub(crate) decodes: StepLoad,
    /// Positions that running prompts still need.
    pub(crate) prompt_tokens: u64,
    pub(crate) sequences: u32,
    /// How many may run at once.
    pub(crate) slots: u32,
    /// Sequences that could start at once; 0 also where blocks are short.
    pub(crate) seats: u32,
    pub(crate) step_tokens_max: u32,
    pub(crate) target: Option<Micros>,
}

impl Running {
    /// The decodes of steps in which everybody ahead has started, as far as there are slots.
    fn decodes_to_come(&self, ahead: Ahead) -> StepLoad {
        let slots = u64::from(self.slots);
        let rows = (u64::from(self.sequences) + ahead.requests).min(slots);
        let kv_tokens = self.decodes.kv_tokens * rows / u64::from(self.decodes.rows.max(1));
        StepLoad {
            rows: rows as u32,
            prompt_tokens: 0,
            kv_tokens,
        }
    }
}

/// What requests have been like lately.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Forecast {
    /// Prompt tokens of late, and those that had to be computed.
    asked: f64,
    computed: f64,
    /// Output tokens that a sequence gives.
    life: f64,
    ends: u32,
}

/// What is kept of older requests with each new one.
const KEEP: f64 = 0.98;

/// Ended sequences after which their lives are believed.
const BELIEVED: u32 = 8;

impl Forecast {
    /// A request of so many tokens started and computes so many of them.
    pub(crate) fn started(&mut self, tokens: u32, computed: u32) {
        self.asked = self.asked * KEEP + f64::from(tokens);
        self.computed = self.computed * KEEP + f64::from(computed);
    }

    /// A sequence ended after so many output tokens.
    pub(crate) fn ended(&mut self, outputs: u32) {
        self.ends = self.ends.saturating_add(1);
        let rate = (1.0 / f64::from(self.ends)).max(1.0 - KEEP);
        self.life += rate * (f64::from(outputs) - self.life);
    }

    /// The time to the first token of a request with `tokens` to compute.
    pub(crate) fn first_token(
        &self,
        model: &CostModel,
        running: Running,
        ahead: Ahead,
        tokens: u32,
    ) -> Option<Micros> {
        let short = (ahead.requests + 1).saturating_sub(u64::from(running.seats));
        let known = model.is_fitted() && (short == 0 || self.ends >= BELIEVED);
        if !known || (ahead.requests == 0 && running.seats > 0) {
            return None;
        }
        let share = if self.asked > 0.0 {
            self.computed / self.asked
        } else {
            1.0
        };
        let waiting = (ahead.tokens + u64::from(tokens)) as f64 * share;
        let to_compute = running.prompt_tokens as f64 + waiting.max(1.0);
        let decodes = running.decodes_to_come(ahead);
        let pace = Pace::new(running.target, model, decodes);
        let room = running.step_tokens_max.saturating_sub(decodes.rows);
        let chunk = f64::from(pace.allows(0, room.max(1)).max(1));
        let filled = (to_compute / chunk).ceil();
        let sequences = f64::from(running.sequences.max(1));
        let ended = (short as f64 * self.life / sequences).ceil();
        let steps_us = filled.max(ended) * model.predict(decodes);
        let us = steps_us + to_compute * model.prompt_token_us();
        Some(Micros(us as u64))
    }
}

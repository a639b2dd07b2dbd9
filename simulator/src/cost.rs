//! How long a step takes.
//!
//! `t = fixed + (weights + KV read) / (bandwidth reached) + FLOPs / (FLOP/s reached)`: memory and
//! arithmetic are not overlapped, as in the engines that this was fitted to.

use scheduler::plan::Plan;

use crate::machine::{Hardware, Model};

/// What of a plan costs time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Positions computed.
    pub tokens: f64,
    /// Rows of logits.
    pub sampled: f64,
    /// Tokens of context that are read, once for each slice, and those that are copied.
    pub context: f64,
    /// Pairs of a position and a token that it looks at.
    pub pairs: f64,
}

impl Work {
    /// The work of a plan.
    pub fn of(plan: &Plan) -> Self {
        let (mut tokens, mut sampled, mut context, mut pairs) = (0_u64, 0_u64, 0_u64, 0_u64);
        for slice in &plan.slices {
            let (start, end) = (
                u64::from(slice.positions.start),
                u64::from(slice.positions.end),
            );
            tokens += end - start;
            sampled += u64::from(slice.samples);
            context += end;
            pairs += (end * (end + 1) - start * (start + 1)) / 2;
        }
        // Read and written.
        context += plan
            .copies
            .iter()
            .map(|copy| 2 * u64::from(copy.tokens))
            .sum::<u64>();
        Self {
            tokens: tokens as f64,
            sampled: sampled as f64,
            context: context as f64,
            pairs: pairs as f64,
        }
    }
}

/// The cost of steps of one model on one machine, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepCost {
    step: f64,
    token: f64,
    row: f64,
    context: f64,
    pair: f64,
}

impl StepCost {
    /// By a model and a machine.
    pub fn new(model: &Model, hardware: &Hardware) -> Self {
        let bandwidth = hardware.bandwidth * hardware.bandwidth_efficiency;
        let flops = hardware.reached(model.weights);
        Self {
            step: hardware.step_overhead_us * 1e-6 + model.read_bytes() / bandwidth,
            token: 2.0 * model.layer_parameters() / flops,
            row: 2.0 * model.head_parameters() / flops,
            context: model.kv_bytes() / bandwidth,
            pair: model.attention_flops() / flops,
        }
    }

    /// How long a step with this work takes, in nanoseconds; at least one.
    pub fn nanos(&self, work: Work) -> u64 {
        let seconds = self.step
            + self.token * work.tokens
            + self.row * work.sampled
            + self.context * work.context
            + self.pair * work.pairs;
        ((seconds * 1e9).round() as u64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use scheduler::plan::{Slice, SlotId};
    use scheduler::request::RequestId;

    use super::*;
    use crate::machine::Catalogue;

    fn slice(start: u32, end: u32, samples: bool) -> Slice {
        Slice {
            id: RequestId(1),
            slot: SlotId(0),
            positions: start..end,
            tokens: 0..0,
            table: 0..0,
            samples,
        }
    }

    #[test]
    fn work_counts_positions_rows_context_and_pairs() {
        let plan = Plan {
            slices: vec![slice(9, 10, true), slice(2, 5, false)],
            ..Plan::default()
        };
        let work = Work::of(&plan);
        let expected = Work {
            tokens: 4.0,
            sampled: 1.0,
            context: 15.0,
            pairs: 10.0 + 3.0 + 4.0 + 5.0,
        };
        assert_eq!(work, expected);
    }

    /// By hand: a decode step of 8B in bf16 on an H200 with one sequence of 1,024 tokens reads
    /// 15.0 GB of weights and 134 MB of KV at 4.416 TB/s, and computes 15.5 GFLOP at 643 TFLOP/s.
    #[test]
    fn a_step_costs_what_its_bytes_and_operations_cost() {
        let catalogue = Catalogue::presets();
        let model = catalogue.model("llama-3.1-8b").unwrap();
        let hardware = catalogue.hardware("h200").unwrap();
        let cost = StepCost::new(model, hardware);
        let plan = Plan {
            slices: vec![slice(1023, 1024, true)],
            ..Plan::default()
        };
        let ms = cost.nanos(Work::of(&plan)) as f64 / 1e6;
        assert!((ms - (2.0 + 3.399 + 0.0304 + 0.0242)).abs() < 0.005, "{ms}");
    }
}

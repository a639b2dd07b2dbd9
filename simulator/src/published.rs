//! Published results of another engine, and what is simulated in their place.

use std::num::NonZeroU32;

use scheduler::limits::{Limits, Pool};
use serde::Serialize;

use crate::cost::StepCost;
use crate::length::Length;
use crate::machine::Catalogue;
use crate::replica::{Build, Order};
use crate::router::{Routing, Rules};
use crate::simulation::{Objective, Scenario, Window, Workload, run};
use crate::table::columns;
use crate::units::nanos;
use crate::workload::{Demand, Flow};

/// A result.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// The machine.
    pub hardware: &'static str,
    /// The model.
    pub model: &'static str,
    /// Tokens of each prompt.
    pub prompt_tokens: u32,
    /// Tokens of each answer.
    pub output_tokens: u32,
    /// Output tokens a second.
    pub published: f64,
}

/// A result, and what was simulated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// What was published.
    pub point: Point,
    /// Output tokens a second.
    pub simulated: f64,
    /// The share of the KV cache that was held.
    pub kv_use: f64,
    /// Sequences in a step.
    pub sequences: f64,
}

/// Prompt and answer lengths of the results below.
const LENGTHS: [(u32, u32); 10] = [
    (128, 128),
    (128, 2048),
    (128, 4096),
    (500, 2000),
    (1000, 1000),
    (1000, 2000),
    (2048, 128),
    (2048, 2048),
    (5000, 500),
    (20000, 2000),
];

/// TensorRT-LLM 1.0, Llama-3.1-8B in fp8 on one GPU: output tokens a second.
const H200: [f64; 10] = [
    27_911.0, 26_221.0, 18_027.0, 20_770.0, 17_744.0, 16_828.0, 3_538.0, 12_194.0, 3_902.0, 1_804.0,
];
const H100: [f64; 10] = [
    28_312.0, 22_714.0, 14_325.0, 17_660.0, 15_220.0, 13_899.0, 3_450.0, 9_305.0, 3_459.0, 1_351.0,
];

/// Sequences that run at once: the bound that fits all results best.
const RUNNING_MAX: u32 = 1024;

/// Tokens of a step.
const STEP_TOKENS_MAX: u32 = 8192;

/// All results.
pub fn points() -> Vec<Point> {
    let of = |hardware: &'static str, published: [f64; 10]| {
        LENGTHS.into_iter().zip(published).map(
            move |((prompt_tokens, output_tokens), published)| Point {
                hardware,
                model: "llama-3.1-8b-fp8",
                prompt_tokens,
                output_tokens,
                published,
            },
        )
    };
    of("h200", H200).chain(of("h100", H100)).collect()
}

/// Simulated nanoseconds of [`compare`].
pub(crate) fn lasts() -> u64 {
    let catalogue = Catalogue::presets();
    let until = |point: &Point| point.scenario(&catalogue).window.until;
    points().iter().map(until).sum()
}

/// Simulates each result: as many clients as fit, each asking again when it was answered.
/// `watch` is told the simulated nanoseconds so far.
pub fn compare(watch: &mut dyn FnMut(u64)) -> Vec<Comparison> {
    let catalogue = Catalogue::presets();
    let mut done = 0;
    let one = |point: Point| {
        let comparison = point.simulate(&mut |nanos| watch(done + nanos));
        done += point.scenario(&catalogue).window.until;
        comparison
    };
    points().into_iter().map(one).collect()
}

impl Comparison {
    /// How far the simulation is above what was published, as a share of it.
    pub fn error(&self) -> f64 {
        self.simulated / self.point.published - 1.0
    }
}

impl Point {
    fn simulate(self, watch: &mut dyn FnMut(u64)) -> Comparison {
        let report = run(&self.scenario(&Catalogue::presets()), watch);
        Comparison {
            point: self,
            simulated: report.rates.output_tokens,
            kv_use: report.kv.use_mean,
            sequences: report.steps.sequences,
        }
    }

    #[expect(clippy::expect_used, reason = "the names are of presets")]
    fn scenario(&self, catalogue: &Catalogue) -> Scenario {
        let model = catalogue.model(self.model).expect("a preset");
        let hardware = catalogue.hardware(self.hardware).expect("a preset");
        let tokens = hardware.kv_tokens(model);
        // As many as the KV cache holds on average: with more, sequences preempt each other.
        let fit = tokens as f64 / f64::from(self.prompt_tokens + self.output_tokens / 2);
        let clients = fit.min(f64::from(RUNNING_MAX)).floor();
        // Their first answers are cut at random, so that they are in all parts of their lives at
        // once; but all their prompts have to be computed first.
        let life = clients * f64::from(self.output_tokens) / self.published;
        let window = Window {
            from: nanos(2.0 * life),
            until: nanos(3.0 * life),
        };
        Scenario {
            build: Build {
                limits: Limits {
                    step_tokens_max: STEP_TOKENS_MAX,
                    running_max: RUNNING_MAX,
                    waiting_max: RUNNING_MAX,
                    sequence_tokens_max: u32::MAX,
                    preemptions_max: 64,
                    depth_max: 1,
                },
                pool: Pool {
                    blocks: (tokens / 16) as u32 + 1,
                    block_tokens: NonZeroU32::MIN.saturating_add(15),
                },
                cost: StepCost::new(model, hardware),
                order: Order::Fair,
            },
            replicas: 1,
            rules: Rules {
                routing: Routing::RoundRobin,
                period: 0,
                gateways: 1,
                load_bound: 1.0,
                seed: 1,
            },
            workload: Workload::Made(Demand {
                seed: 1,
                flow: Flow::Closed {
                    clients: clients as u32,
                    tenants: 1,
                },
                until: window.until,
                prompt: Length::Fixed(self.prompt_tokens),
                output: Length::Fixed(self.output_tokens),
                groups: 0,
                group_tokens: 0,
                turns: Length::Fixed(1),
                think: 0,
                deadline: None,
            }),
            window,
            objective: Objective {
                ttft: u64::MAX,
                itl: u64::MAX,
            },
            tenants: vec!["all".to_owned()],
            setting: Vec::new(),
        }
    }
}

/// Side by side, and how far apart.
pub fn table(comparisons: &[Comparison]) -> String {
    let head = [
        "hardware",
        "prompt",
        "answer",
        "published",
        "simulated",
        "error",
        "sequences",
        "KV held",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for comparison in comparisons {
        let point = &comparison.point;
        rows.push(vec![
            point.hardware.to_owned(),
            point.prompt_tokens.to_string(),
            point.output_tokens.to_string(),
            format!("{:.0}", point.published),
            format!("{:.0}", comparison.simulated),
            format!("{:+.1} %", 100.0 * comparison.error()),
            format!("{:.0}", comparison.sequences),
            format!("{:.0} %", 100.0 * comparison.kv_use),
        ]);
    }
    let squares: f64 = comparisons.iter().map(|c| c.error().powi(2)).sum();
    let root = (squares / comparisons.len().max(1) as f64).sqrt();
    let worst = comparisons
        .iter()
        .map(|c| c.error().abs())
        .fold(0.0, f64::max);
    format!(
        "Output tokens/s of TensorRT-LLM 1.0, Llama-3.1-8B in fp8 on one GPU, and of this simulator\n\
         with as many clients in a closed loop as the KV cache holds on average, {RUNNING_MAX} at most, \
         {STEP_TOKENS_MAX} tokens a step.\n\n{}\nroot mean square {:.1} %, worst {:.1} %\n",
        columns(&rows, 1),
        100.0 * root,
        100.0 * worst
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those with short answers. `tests/e2e/test_load.py` simulates all of them, with the release
    /// binary.
    #[test]
    fn published_points_are_met_within_ten_percent() {
        let mut comparisons = Vec::new();
        for point in points() {
            if point.output_tokens <= 500 {
                comparisons.push(point.simulate(&mut |_| {}));
            }
        }
        assert_eq!(comparisons.len(), 6);
        println!("{}", table(&comparisons));
        for comparison in &comparisons {
            let error = comparison.error();
            assert!(error.abs() <= 0.10, "{comparison:?}: {error:+.3}");
        }
    }
}

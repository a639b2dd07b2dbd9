//! Prints what planning and applying one decode step costs, by the number of running sequences
//! and the length of their prompts; the median and, in brackets, the tenth percentile.
//!
//! ```text
//! cargo run --release -p scheduler --example step_cost
//! ```

use std::num::NonZeroU32;
use std::time::Instant;

use scheduler::hash::{BlockHash, BlockHasher};
use scheduler::limits::{Limits, Pool};
use scheduler::plan::{Event, Outcome, Plan, Sampled};
use scheduler::request::{Micros, Priority, Request, RequestId, TenantId, Token};
use scheduler::scheduler::Scheduler;

/// Decode steps measured; each sequence fills blocks in some of them.
const STEPS: u32 = 256;

/// A fast hash, so that the figures are the scheduler's own. SHA-256 adds about 0.1 us for each
/// block that a step fills: one for 16 sequences on average.
#[derive(Debug)]
struct Mix;

impl BlockHasher for Mix {
    fn hash(&self, parent: BlockHash, tokens: &[Token]) -> BlockHash {
        let mut hash = parent.0 as u64;
        for token in tokens {
            hash = (hash ^ u64::from(token.0))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29);
        }
        let high = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        BlockHash(u128::from(high) << 64 | u128::from(hash ^ (high >> 32)))
    }
}

/// A scheduler with everything it talks through.
struct Bench {
    scheduler: Scheduler,
    plan: Plan,
    outcome: Outcome,
    events: Vec<Event>,
}

impl Bench {
    fn new(running: u32, prompt_tokens: u32) -> Self {
        let limits = Limits {
            step_tokens_max: 8192,
            running_max: running,
            waiting_max: running,
            sequence_tokens_max: 8192,
            preemptions_max: 4,
            depth_max: 1,
        };
        let block_tokens = NonZeroU32::MIN.saturating_add(15);
        let blocks = running * ((prompt_tokens + 4 * STEPS) / 16 + 1) * 11 / 10 + 16;
        let mut bench = Self {
            scheduler: Scheduler::new(
                limits,
                Pool {
                    blocks,
                    block_tokens,
                },
                Box::new(Mix),
            ),
            plan: Plan::default(),
            outcome: Outcome::default(),
            events: Vec::new(),
        };
        for id in 0..u64::from(running) {
            // Lengths differ, so that the same share of sequences fills a block in every step.
            let tokens = prompt_tokens + (id % 16) as u32;
            let request = Request {
                id: RequestId(id),
                prompt: (0..tokens)
                    .map(|at| Token(at ^ (id as u32) << 12))
                    .collect(),
                generated: Vec::new(),
                output_max: NonZeroU32::MIN.saturating_add(4 * STEPS),
                priority: Priority(0),
                deadline: None,
                tenant: TenantId(id as u32 % 8),
                root: BlockHash(0),
            };
            let submitted = bench.scheduler.submit(request, Micros(0));
            assert_eq!(submitted, Ok(()), "the bench's own limits fit");
        }
        bench
    }

    fn plan(&mut self) {
        self.events.clear();
        self.scheduler
            .plan(Micros(1), &mut self.plan, &mut self.events);
    }

    /// What an executor would do.
    fn answer(&mut self) {
        self.outcome.step = self.plan.step;
        self.outcome.sampled.clear();
        for slice in self.plan.slices.iter().filter(|slice| slice.samples) {
            let token = Token(slice.positions.end ^ slice.slot.0 << 12);
            self.outcome.sampled.push((slice.id, Sampled::Token(token)));
        }
    }

    fn apply(&mut self) {
        self.scheduler
            .apply(&self.outcome, Micros(1), &mut self.events);
    }
}

#[expect(clippy::disallowed_methods, reason = "it measures")]
fn now() -> Instant {
    Instant::now()
}

/// The median and the tenth percentile.
fn middle_and_low(samples: &mut [f64]) -> (f64, f64) {
    samples.sort_by(f64::total_cmp);
    (samples[samples.len() / 2], samples[samples.len() / 10])
}

#[expect(clippy::print_stdout, reason = "it reports")]
fn main() {
    println!("running  prompt        plan us       apply us        both us  ns a sequence");
    for prompt_tokens in [128, 1024] {
        for running in [1, 32, 256, 1024, 4096] {
            report(running, prompt_tokens);
        }
    }
}

#[expect(clippy::print_stdout, reason = "it reports")]
fn report(running: u32, prompt_tokens: u32) {
    let mut bench = Bench::new(running, prompt_tokens);
    while bench.scheduler.stats().running < running || bench.plan.tokens.len() > running as usize {
        bench.plan();
        bench.answer();
        bench.apply();
    }
    let (mut plans, mut applies, mut both) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STEPS {
        let start = now();
        bench.plan();
        let planned = start.elapsed().as_secs_f64() * 1e6;
        bench.answer();
        let start = now();
        bench.apply();
        let applied = start.elapsed().as_secs_f64() * 1e6;
        plans.push(planned);
        applies.push(applied);
        both.push(planned + applied);
    }
    assert_eq!(
        bench.plan.slices.len(),
        running as usize,
        "all of them decode"
    );
    print!("{running:7} {prompt_tokens:7}");
    for samples in [&mut plans, &mut applies, &mut both] {
        let (middle, low) = middle_and_low(samples);
        print!("{middle:7.2} ({low:6.2})");
    }
    println!(
        "{:14.1}",
        middle_and_low(&mut both).0 * 1000.0 / f64::from(running)
    );
}

//! What planning and applying cost: steady decode, with churn, and the admission of a prompt.
//!
//! ```text
//! cargo run --release -p scheduler --example step_cost
//! ```
//!
//! prints times: medians, and tenth percentiles in brackets. With three words it runs one case under
//! callgrind and times nothing; the calls of `measured` are what counts:
//!
//! ```text
//! valgrind --tool=callgrind --toggle-collect='*measured*' --callgrind-out-file=/dev/null \
//!     target/release/examples/step_cost decode 4096 128
//! ```
//!
//! and of `churn RUNNING PROMPT` and `admit 1 PROMPT`. Divide by the steps it prints.

use std::num::NonZeroU32;
use std::time::Instant;

use scheduler::hash::{BlockHash, BlockHasher};
use scheduler::limits::{Limits, Pool};
use scheduler::plan::{Event, Outcome, Plan, Sampled};
use scheduler::request::{Micros, Priority, Request, RequestId, TenantId, Token};
use scheduler::scheduler::Scheduler;
use sha2::{Digest, Sha256};

/// Steps measured; each sequence fills blocks in some of them.
const STEPS: u32 = 256;

/// Output tokens of a sequence that does not end while it is measured.
const LONG: u32 = 4 * STEPS;

/// As an engine's: SHA-256, truncated.
#[derive(Debug)]
struct Secure;

impl BlockHasher for Secure {
    fn hash(&self, parent: BlockHash, tokens: &[Token]) -> BlockHash {
        let mut bytes = [0; 80];
        bytes[..16].copy_from_slice(&parent.0.to_le_bytes());
        for (place, token) in bytes[16..].chunks_exact_mut(4).zip(tokens) {
            place.copy_from_slice(&token.0.to_le_bytes());
        }
        let digest = Sha256::digest(&bytes[..16 + 4 * tokens.len()]);
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        BlockHash(u128::from_le_bytes(hash))
    }
}

/// A fast hash, so that the figures are the scheduler's own.
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

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    /// All sequences decode.
    Decode,
    /// All decode, and in every step one of 64 ends and another one comes.
    Churn,
    /// One prompt comes into an idle scheduler: its submission and its first step.
    Admit,
}

/// A scheduler with everything it talks through.
struct Bench {
    case: Case,
    scheduler: Scheduler,
    plan: Plan,
    outcome: Outcome,
    events: Vec<Event>,
    prompt_tokens: u32,
    /// A prompt made beforehand, for callers make theirs somewhere else.
    next: Option<Request>,
    submitted: u64,
}

impl Bench {
    fn new(case: Case, running: u32, prompt_tokens: u32, hasher: Box<dyn BlockHasher>) -> Self {
        let limits = Limits {
            step_tokens_max: 8192,
            running_max: running,
            waiting_max: running,
            sequence_tokens_max: 1 << 16,
            preemptions_max: 4,
            depth_max: 1,
        };
        let pool = Pool {
            blocks: running * ((prompt_tokens + LONG) / 16 + 2) * 11 / 10 + 16,
            block_tokens: NonZeroU32::MIN.saturating_add(15),
        };
        let mut bench = Self {
            case,
            scheduler: Scheduler::new(limits, pool, hasher),
            plan: Plan::default(),
            outcome: Outcome::default(),
            events: Vec::new(),
            prompt_tokens,
            next: None,
            submitted: 0,
        };
        if case != Case::Admit {
            for _ in 0..running {
                bench.prepare();
                bench.submit();
            }
            while bench.scheduler.stats().running < running || bench.has_prompts() {
                bench.plan();
                bench.answer();
                bench.apply();
            }
        }
        bench
    }

    fn has_prompts(&self) -> bool {
        self.plan.tokens.len() > self.plan.slices.len()
    }

    fn prepare(&mut self) {
        let id = self.submitted;
        // Lengths differ, so that the same share of sequences fills a block in every step.
        let tokens = self.prompt_tokens + (id % 16) as u32;
        // With churn, 1 of 64 ends in a step.
        let output = match self.case {
            Case::Decode => LONG,
            Case::Churn => 1 + (id * 37 % 128) as u32,
            Case::Admit => 1,
        };
        self.next = Some(Request {
            id: RequestId(id),
            prompt: (0..tokens)
                .map(|at| Token(at ^ (id as u32) << 14))
                .collect(),
            generated: Vec::new(),
            output_max: NonZeroU32::MIN.saturating_add(output - 1),
            priority: Priority(0),
            deadline: None,
            tenant: TenantId(id as u32 % 8),
            root: BlockHash(0),
        });
    }

    fn submit(&mut self) {
        let Some(request) = self.next.take() else {
            return;
        };
        self.submitted += 1;
        let submitted = self.scheduler.submit(request, Micros(0));
        assert_eq!(submitted, Ok(()), "the bench's own limits fit");
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

    /// One measured step: `timed` runs what counts.
    fn step(&mut self, mut timed: impl FnMut(&mut dyn FnMut())) {
        if self.case == Case::Admit {
            self.prepare();
            timed(&mut || {
                self.submit();
                self.plan();
            });
            while !self.plan.is_empty() {
                self.answer();
                self.apply();
                self.plan();
            }
            self.scheduler.flush_cache();
            return;
        }
        timed(&mut || self.plan());
        self.answer();
        timed(&mut || self.apply());
        // Who comes in place of those who ended waits for the next plan.
        for at in 0..self.events.len() {
            if matches!(self.events[at], Event::Finished { .. }) {
                self.prepare();
                timed(&mut || self.submit());
            }
        }
    }
}

#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    work();
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
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [case, running, prompt_tokens] = &words[..] {
        let case = match case.as_str() {
            "decode" => Case::Decode,
            "churn" => Case::Churn,
            _ => Case::Admit,
        };
        let number = |word: &String| word.parse().unwrap_or(1);
        let mut bench = Bench::new(case, number(running), number(prompt_tokens), Box::new(Mix));
        for _ in 0..STEPS {
            bench.step(|work| measured(work));
        }
        println!("{STEPS} steps");
        return;
    }
    println!("case     running  prompt             us      ns a sequence");
    for (case, prompts) in [(Case::Decode, &[128, 1024][..]), (Case::Churn, &[128])] {
        for &prompt_tokens in prompts {
            for running in [1, 32, 256, 1024, 4096] {
                report(case, running, prompt_tokens, Box::new(Mix));
            }
        }
    }
    report(Case::Decode, 4096, 128, Box::new(Secure));
    for prompt_tokens in [1024, 8000] {
        report(Case::Admit, 1, prompt_tokens, Box::new(Mix));
        report(Case::Admit, 1, prompt_tokens, Box::new(Secure));
    }
}

#[expect(clippy::print_stdout, reason = "it reports")]
fn report(case: Case, running: u32, prompt_tokens: u32, hasher: Box<dyn BlockHasher>) {
    let mut bench = Bench::new(case, running, prompt_tokens, hasher);
    let mut samples = Vec::new();
    for _ in 0..STEPS {
        let mut spent = 0.0;
        bench.step(|work| {
            let start = now();
            work();
            spent += start.elapsed().as_secs_f64() * 1e6;
        });
        samples.push(spent);
    }
    let (middle, low) = middle_and_low(&mut samples);
    let each = middle * 1000.0 / f64::from(running);
    let case = format!("{case:?}").to_lowercase();
    println!("{case:8} {running:7} {prompt_tokens:7} {middle:8.2} ({low:7.2}) {each:14.1}");
}

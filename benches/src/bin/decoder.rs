//! Decode and prefill tokens/s of our executor under the real scheduler, beside candle-transformers
//! on the same weights, on a SmolLM2-135M-shaped model. Runs are interleaved; medians are printed.
//!
//! `cargo run --release -p benches --bin decoder [-- ROUNDS]`; weights are written under
//! `target/bench-models` once. A decode rate is that of the steps after every stream's first token.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints and may fail"
)]

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use benches::clock::{median, timed};
use benches::shapes::{SMALL, folder};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama, LlamaConfig};
use engine::executor::{Executor, Rows};
use engine::sampling::Sampling;
use models::files::ModelFiles;
use models::load::{Dtype, LoadFormat, LoadOptions, Loaded};
use scheduler::hash::{BlockHash, BlockHasher};
use scheduler::limits::Limits;
use scheduler::plan::{Outcome, Plan, Sampled};
use scheduler::request::{Micros, Priority, Request, RequestId, TenantId, Token};
use scheduler::scheduler::Scheduler;

/// One load shape: `streams` at once, each with a random prompt.
#[derive(Clone, Copy, Debug)]
struct Load {
    streams: usize,
    prompt: usize,
    output: usize,
}

/// The shortest prompts for the decode rates, and one long prompt for the prefill rate.
const LOADS: &[Load] = &[
    Load {
        streams: 1,
        prompt: 16,
        output: 64,
    },
    Load {
        streams: 8,
        prompt: 16,
        output: 32,
    },
    Load {
        streams: 32,
        prompt: 16,
        output: 16,
    },
    Load {
        streams: 1,
        prompt: 512,
        output: 1,
    },
];

impl Load {
    fn name(self) -> String {
        match self.output {
            1 => format!("prefill {}", self.prompt),
            _ => format!("decode c={}", self.streams),
        }
    }

    /// Tokens/s: of the prompts where there is one output token, else of the steps after them.
    fn rate(self, run: Run) -> f64 {
        match self.output {
            1 => (self.streams * self.prompt) as f64 / run.prompts_s,
            output => (self.streams * (output - 1)) as f64 / run.decode_s,
        }
    }
}

/// Seconds of one run: until every stream has its first token, and from there to the end.
#[derive(Clone, Copy, Debug)]
struct Run {
    prompts_s: f64,
    decode_s: f64,
}

fn main() {
    let rounds: usize = std::env::args()
        .nth(1)
        .map_or(5, |rounds| rounds.parse().unwrap());
    let folder = folder(SMALL, Path::new("target/bench-models")).unwrap();
    println!(
        "tokens/s on {}, {} threads, medians of {rounds} interleaved rounds after one that does not count",
        SMALL.name,
        threads()
    );
    println!(
        "{:<12} {:<6} {:>10} {:>10} {:>8}",
        "load", "dtype", "ours", "candle", "ratio"
    );
    for (dtype, candle_dtype) in [(Dtype::F32, DType::F32), (Dtype::Bf16, DType::BF16)] {
        let mut ours = load_ours(&folder, dtype);
        let theirs = Candle::load(&folder, candle_dtype);
        for load in LOADS {
            let mut rates = (Vec::new(), Vec::new());
            for round in 0..=rounds {
                let mut run_ours = || load.rate(run_ours(&mut *ours, *load, round));
                let run_theirs = || load.rate(theirs.run(*load, round));
                // Each goes first every other time.
                let (a, b) = if round % 2 == 0 {
                    let a = run_ours();
                    (a, run_theirs())
                } else {
                    let b = run_theirs();
                    (run_ours(), b)
                };
                if round > 0 {
                    rates.0.push(a);
                    rates.1.push(b);
                }
            }
            let (a, b) = (median(&rates.0), median(&rates.1));
            println!(
                "{:<12} {dtype:<6?} {a:>10.1} {b:>10.1} {:>8.2}",
                load.name(),
                a / b
            );
        }
    }
}

/// All cores, which is what candle takes too.
fn threads() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

/// Prompt tokens that differ by stream and round, so that no prefix is shared.
fn prompt(load: Load, stream: usize, round: usize) -> Vec<u32> {
    let mut state = (stream * 7919 + round * 104_729 + 1) as u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % (SMALL.vocab as u64 - 2) + 2) as u32
    };
    (0..load.prompt).map(|_| next()).collect()
}

// === ours ===

fn load_ours(folder: &Path, dtype: Dtype) -> Box<dyn Executor> {
    let options = LoadOptions {
        dtype: Some(dtype),
        format: LoadFormat::Safetensors,
        kv_cache_bytes: 512 << 20,
        block_tokens: 16,
        context_max: None,
        running_max: 64,
        step_tokens_max: 512,
        threads: models::load::Threads::new(threads()),
        wanted: None,
    };
    match models::load::load(&ModelFiles::Folder(folder.to_owned()), &options)
        .unwrap()
        .0
    {
        Loaded::Decoder(executor) => executor,
        Loaded::Encoder(_) => unreachable!("a Llama is a decoder"),
    }
}

#[derive(Debug)]
struct Fnv;

impl BlockHasher for Fnv {
    fn hash(&self, parent: BlockHash, tokens: &[Token]) -> BlockHash {
        let step = |hash: u128, token: &Token| {
            (hash ^ u128::from(token.0)).wrapping_mul((1 << 88) | 0x13b)
        };
        BlockHash(tokens.iter().fold(parent.0 ^ 0x6c62_272e_07bb_0142, step))
    }
}

fn run_ours(executor: &mut dyn Executor, load: Load, round: usize) -> Run {
    let limits = Limits {
        step_tokens_max: 512,
        running_max: 64,
        waiting_max: 1024,
        sequence_tokens_max: 2048,
        preemptions_max: 3,
        depth_max: 1,
    };
    let mut scheduler = Scheduler::new(limits, executor.pool(), Box::new(Fnv));
    let sampling = Arc::new(Sampling::default());
    for stream in 0..load.streams {
        let id = RequestId((round * 1000 + stream) as u64);
        let prompt: Arc<[Token]> = prompt(load, stream, round).into_iter().map(Token).collect();
        executor.admit(id, &sampling, &prompt, &[]);
        let output_max = NonZeroU32::new(load.output as u32).unwrap();
        let request = Request {
            id,
            prompt,
            generated: Vec::new(),
            output_max,
            priority: Priority::default(),
            deadline: None,
            tenant: TenantId::default(),
            root: BlockHash(round as u128),
        };
        scheduler.submit(request, Micros(0)).unwrap();
    }
    let (prompts_s, ()) = timed(|| drive(&mut scheduler, executor, Until::FirstTokens));
    let (decode_s, ()) = timed(|| drive(&mut scheduler, executor, Until::End));
    for stream in 0..load.streams {
        executor.release(RequestId((round * 1000 + stream) as u64));
    }
    Run {
        prompts_s,
        decode_s,
    }
}

/// How far to go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Until every stream has its first token; all prompts of a load fit one step.
    FirstTokens,
    End,
}

fn drive(scheduler: &mut Scheduler, executor: &mut dyn Executor, until: Until) {
    let (mut plan, mut rows, mut events) = (Plan::default(), Rows::default(), Vec::new());
    let mut outcome = Outcome::default();
    loop {
        events.clear();
        scheduler.plan(Micros(0), &mut plan, &mut events);
        if plan.is_empty() {
            break;
        }
        executor.launch(&plan).unwrap();
        executor.wait(&mut rows).unwrap();
        outcome.step = rows.step;
        outcome.sampled.clear();
        for (id, row) in &rows.rows {
            let engine::executor::Row::Token { drawn, .. } = row else {
                unreachable!("finite")
            };
            outcome.sampled.push((*id, Sampled::Token(drawn.token)));
        }
        scheduler.apply(&outcome, Micros(0), &mut events);
        if until == Until::FirstTokens {
            break;
        }
    }
}

// === candle-transformers, one batch of equal lengths: its best case ===

struct Candle {
    model: Llama,
    config: Config,
    dtype: DType,
}

impl Candle {
    fn load(folder: &Path, dtype: DType) -> Self {
        let config: LlamaConfig =
            serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        let config = config.into_config(false);
        let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
        let weights = VarBuilder::from_buffered_safetensors(bytes, dtype, &Device::Cpu).unwrap();
        let model = Llama::load(weights, &config).unwrap();
        Self {
            model,
            config,
            dtype,
        }
    }

    fn run(&self, load: Load, round: usize) -> Run {
        let mut cache = Cache::new(true, self.dtype, &self.config, &Device::Cpu).unwrap();
        let prompts: Vec<u32> = (0..load.streams)
            .flat_map(|s| prompt(load, s, round))
            .collect();
        let prompts = Tensor::from_vec(prompts, (load.streams, load.prompt), &Device::Cpu).unwrap();
        let mut forward = |input: &Tensor, position: usize| {
            let logits = self.model.forward(input, position, &mut cache).unwrap();
            logits.argmax(1).unwrap().unsqueeze(1).unwrap()
        };
        let (prompts_s, mut input) = timed(|| forward(&prompts, 0));
        let (decode_s, ()) = timed(|| {
            for step in 0..load.output - 1 {
                input = forward(&input, load.prompt + step);
            }
        });
        Run {
            prompts_s,
            decode_s,
        }
    }
}

//! What planning a step ahead is worth: tokens/s of the engine with one step in flight and with two,
//! in turn, on a fake device whose steps take a fixed time and no processor. The limit is a token a
//! stream and step.
//!
//! `cargo run --release -p benches --bin overlap`

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints and may fail"
)]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use benches::clock::{median, timed_async};
use engine::config::EngineConfig;
use engine::fake::{FakeConfig, FakeDevice};
use engine::handle::{Generate, Handle};
use engine::policy::Weight;
use engine::request::{Priority, Token};
use engine::sampling::Sampling;
use scheduler::limits::{Limits, Pool};
use tokio::task::JoinSet;

/// Steps of decoding in a round.
const TOKENS: u32 = 200;
const ROUNDS: usize = 5;

#[tokio::main]
async fn main() {
    println!("streams  step   one in flight  two in flight  ratio   of the limit");
    for streams in [32, 256, 1024] {
        for step in [1, 2, 5].map(Duration::from_millis) {
            let one = engine(streams, step, 1);
            let two = engine(streams, step, 2);
            let (mut ones, mut twos) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                ones.push(rate(&one, streams).await);
                twos.push(rate(&two, streams).await);
            }
            let (one, two) = (median(&ones), median(&twos));
            let limit = f64::from(streams) / step.as_secs_f64();
            println!(
                "{streams:7}  {step:4?}  {one:13.0}  {two:13.0}  {:5.3}  {:4.1} % and {:4.1} %",
                two / one,
                100.0 * one / limit,
                100.0 * two / limit
            );
        }
    }
}

fn engine(streams: u32, step: Duration, depth_max: u32) -> Handle {
    let device = FakeDevice::new(FakeConfig {
        pool: Pool {
            blocks: 32_768,
            block_tokens: NonZeroU32::new(16).unwrap(),
        },
        vocabulary: 300..2000,
        latency: step,
        width: 8,
    });
    let limits = Limits {
        step_tokens_max: 16_384,
        running_max: streams,
        waiting_max: streams,
        sequence_tokens_max: 4096,
        preemptions_max: 8,
        depth_max,
    };
    engine::start(device.executors(), EngineConfig::new("fake", limits)).0
}

/// Tokens/s of so many streams that begin together.
async fn rate(handle: &Handle, streams: u32) -> f64 {
    let (seconds, ()) = timed_async(async {
        let mut readers = JoinSet::new();
        for stream in 0..streams {
            let handle = handle.clone();
            readers.spawn(async move { read(handle, stream).await });
        }
        readers.join_all().await;
    })
    .await;
    f64::from(streams * TOKENS) / seconds
}

async fn read(handle: Handle, stream: u32) {
    let prompt: Arc<[Token]> = (0..10).map(|at| Token(300 + stream + at)).collect();
    let request = Generate {
        prompt,
        sampling: Sampling::default(),
        output_max: NonZeroU32::new(TOKENS).unwrap(),
        priority: Priority::default(),
        timeout: None,
        tenant: String::new(),
        weight: Weight::ONE,
        cache_salt: String::new(),
    };
    let mut tokens = handle.generate(request).await.unwrap();
    while tokens.next().await.is_some() {}
}

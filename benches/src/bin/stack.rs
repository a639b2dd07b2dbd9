//! What the server itself costs: tokens/s and added latency through the whole stack (client, HTTP/2,
//! validation, tokenizer, engine, scheduler, detokenizer) with an executor that computes nothing.
//! Client and server share this process and its cores.
//!
//! `cargo run --release -p benches --bin stack`

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints and may fail"
)]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use benches::clock::{median, quantile, timed, timed_async};
use engine::config::EngineConfig;
use engine::fake::{FakeConfig, FakeDevice};
use paternoster_client::Client;
use paternoster_client::v1::{GenerateRequest, Stopping, generate_request::Input};
use scheduler::limits::{Limits as SchedulerLimits, Pool};
use server::app::App;
use server::limits::Limits;
use server::registry::{Decoder, Facts, Registry, Served, TextTools};
use server::text::tokenizer::{PoolLimits, TokenizerPool};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

#[tokio::main]
async fn main() {
    let free = start(Duration::ZERO).await;
    throughput(&free, 5).await;
    let paced = start(STEP).await;
    let step_s = tokio::task::spawn_blocking(paced_step).await.unwrap();
    added_latency(&paced, step_s).await;
}

/// One step of the paced executor.
const STEP: Duration = Duration::from_millis(10);
/// Seconds that a step of the paced executor really takes: the system wakes a sleeper a little late.
#[expect(clippy::disallowed_methods, reason = "the sleep is what is measured")]
fn paced_step() -> f64 {
    let sleeps = [(); 50].map(|()| timed(|| std::thread::sleep(STEP)).0);
    median(&sleeps)
}

/// Tokens of a paced request: one second of steps, so that 100 requests/s are 100 at once.
const PACED_TOKENS: u32 = 100;

async fn throughput(address: &str, rounds: usize) {
    const STREAMS: usize = 64;
    const TOKENS: u32 = 1024;
    let clients = connect(address, 8).await;
    let mut rates = Vec::new();
    for _ in 0..rounds {
        let (seconds, ()) = timed_async(async {
            let mut streams = JoinSet::new();
            for stream in 0..STREAMS {
                let client = clients[stream % clients.len()].clone();
                streams.spawn(async move { generate(&client, TOKENS).await });
            }
            while let Some(stream) = streams.join_next().await {
                assert_eq!(stream.unwrap().tokens, TOKENS);
            }
        })
        .await;
        rates.push(STREAMS as f64 * f64::from(TOKENS) / seconds);
    }
    println!(
        "tokens/s through the stack, {STREAMS} streams of {TOKENS}: median {:.0}",
        median(&rates)
    );
}

async fn added_latency(address: &str, step_s: f64) {
    const REQUESTS: u32 = 1000;
    let clients = connect(address, 8).await;
    let mut arrivals = tokio::time::interval(Duration::from_millis(10));
    let mut requests = JoinSet::new();
    for request in 0..REQUESTS {
        arrivals.tick().await;
        let client = clients[request as usize % clients.len()].clone();
        requests.spawn(async move { timed_async(generate(&client, PACED_TOKENS)).await });
    }
    let (mut first, mut whole) = (Vec::new(), Vec::new());
    while let Some(done) = requests.join_next().await {
        let (seconds, run) = done.unwrap();
        // A request that arrives during a step waits for its end: on average half a step.
        whole.push((seconds - f64::from(PACED_TOKENS) * step_s) * 1e3);
        first.push((run.first_token - step_s) * 1e3);
    }
    println!(
        "added to {PACED_TOKENS} steps of {:.3} ms at 100 requests/s, in ms (waiting for a running step included):",
        step_s * 1e3
    );
    for (name, values) in [("first token", first), ("whole request", whole)] {
        let at = |share| quantile(&values, share);
        println!(
            "  {name:<14} p50 {:.2}  p95 {:.2}  p99 {:.2}",
            at(0.5),
            at(0.95),
            at(0.99)
        );
    }
}

/// What one stream gave.
struct Run {
    tokens: u32,
    /// Seconds from the call to the first token.
    first_token: f64,
}

async fn generate(client: &Client, max_tokens: u32) -> Run {
    let stopping = Stopping {
        max_tokens: Some(max_tokens),
        ignore_eos: true,
        ..Default::default()
    };
    let request = GenerateRequest {
        input: Some(Input::Prompt("A lift that never stops.".to_owned())),
        stopping: Some(stopping),
        ..Default::default()
    };
    let (first_token, (mut events, mut tokens)) = timed_async(async {
        let mut events = client.generate(request).await.unwrap();
        let mut tokens = 0;
        while tokens == 0 {
            tokens += delta_tokens(events.next().await.unwrap().unwrap());
        }
        (events, tokens)
    })
    .await;
    while let Some(event) = events.next().await.unwrap() {
        tokens += delta_tokens(event);
    }
    Run {
        tokens,
        first_token,
    }
}

fn delta_tokens(event: paternoster_client::v1::generate_response::Event) -> u32 {
    match event {
        paternoster_client::v1::generate_response::Event::Delta(delta) => {
            delta.token_ids.len() as u32
        }
        _ => 0,
    }
}

async fn connect(address: &str, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(Client::connect(format!("http://{address}")).await.unwrap());
    }
    clients
}

/// A server of one fake decoder on a free port; returns its address.
async fn start(latency: Duration) -> String {
    let block_tokens = NonZeroU32::new(16).unwrap();
    let device = FakeDevice::new(FakeConfig {
        pool: Pool {
            blocks: 32_768,
            block_tokens,
        },
        vocabulary: 300..2000,
        latency,
        width: 8,
    });
    let limits = SchedulerLimits {
        step_tokens_max: 2048,
        running_max: 256,
        waiting_max: 1024,
        sequence_tokens_max: 4096,
        preemptions_max: 8,
        depth_max: 1,
    };
    let (handle, _completion) =
        engine::start(device.executors(), EngineConfig::new("fake", limits));
    let tokenizer = std::fs::read("models/demo/decoder/model/tokenizer.json").unwrap();
    let decoder = Decoder {
        name: "fake".to_owned(),
        facts: Facts {
            vocab_size: 2048,
            context_tokens_max: 4096,
            ..Facts::default()
        },
        handle,
        text: TextTools {
            pool: TokenizerPool::from_json(&tokenizer, PoolLimits::default()).unwrap(),
            chat: None,
            files: Arc::new(|_| None),
        },
        end_tokens: Vec::new(),
    };
    let registry = Registry::new(vec![Served::Decoder(Arc::new(decoder))]).unwrap();
    let app = Arc::new(App::new(registry, Limits::default(), None));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut readiness = app.readiness.subscribe();
    tokio::spawn(server::serve::serve(listener, app, std::future::pending()));
    readiness
        .wait_for(|readiness| readiness.ready)
        .await
        .unwrap();
    address
}

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

use benches::clock::{median, quantile, timed_async};
use engine::config::EngineConfig;
use engine::fake::{FakeConfig, FakeDevice};
use engine::handle::{Generate, Handle};
use engine::policy::Weight;
use engine::request::{Priority, Token};
use engine::sampling::Sampling;
use paternoster_client::Client;
use paternoster_client::v1::generate_request::Input;
use paternoster_client::v1::generate_response::Event;
use paternoster_client::v1::{GenerateRequest, Stopping};
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
    added_latency(&paced, 3).await;
}

/// One step of the paced executor.
const STEP: Duration = Duration::from_millis(10);
/// Tokens of a paced request: one second of steps, so that 100 requests/s are 100 at once.
const PACED_TOKENS: u32 = 100;
const PACED_REQUESTS: u32 = 500;

/// A server, and the handle of its engine.
struct Stack {
    address: String,
    engine: Handle,
}

async fn throughput(stack: &Stack, rounds: usize) {
    const STREAMS: usize = 64;
    const TOKENS: u32 = 1024;
    let clients = connect(&stack.address, 8).await;
    let (mut rates, mut messages) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (seconds, sent) = timed_async(async {
            let mut streams = JoinSet::new();
            for stream in 0..STREAMS {
                let client = clients[stream % clients.len()].clone();
                streams.spawn(async move { generate(&client, TOKENS).await });
            }
            let mut sent = 0;
            while let Some(stream) = streams.join_next().await {
                let run = stream.unwrap();
                assert_eq!(run.tokens, TOKENS);
                sent += run.messages;
            }
            sent
        })
        .await;
        rates.push(STREAMS as f64 * f64::from(TOKENS) / seconds);
        messages.push(f64::from(sent) / seconds);
    }
    println!(
        "through the stack, {STREAMS} streams of {TOKENS}: median {:.0} tokens/s in {:.0} messages/s",
        median(&rates),
        median(&messages)
    );
}

/// What gRPC and text add to the engine: the same arrivals once to the engine's own handle and once
/// over a socket, in turn. Waiting for the step that runs at the arrival is in both.
async fn added_latency(stack: &Stack, rounds: usize) {
    let clients = connect(&stack.address, 8).await;
    let tokens: Arc<[Token]> = PROMPT.bytes().map(|byte| Token(byte.into())).collect();
    let (mut bare, mut whole) = (Latencies::default(), Latencies::default());
    for _ in 0..rounds {
        bare.extend(arrivals(|_| bare_run(stack.engine.clone(), Arc::clone(&tokens))).await);
        whole.extend(
            arrivals(|request| {
                let client = clients[request as usize % clients.len()].clone();
                async move { generate(&client, PACED_TOKENS).await }
            })
            .await,
        );
    }
    println!(
        "{PACED_TOKENS} steps of {STEP:?}, 100 requests/s, about 100 at once, {rounds} rounds in turn, in ms:"
    );
    println!("                        p50      p95      p99");
    for (name, engine, stack) in [
        ("first token", &bare.first, &whole.first),
        ("whole request", &bare.whole, &whole.whole),
    ] {
        let at = |values: &[f64]| [0.5, 0.95, 0.99].map(|share| quantile(values, share));
        let (engine, stack) = (at(engine), at(stack));
        let added = [0, 1, 2].map(|rank| stack[rank] - engine[rank]);
        for (side, values) in [("engine", engine), ("stack", stack), ("added", added)] {
            let [p50, p95, p99] = values;
            println!("{name:<14} {side:<6} {p50:8.2} {p95:8.2} {p99:8.2}");
        }
    }
}

/// Milliseconds from arrivals.
#[derive(Default)]
struct Latencies {
    first: Vec<f64>,
    whole: Vec<f64>,
}

impl Latencies {
    fn extend(&mut self, other: Self) {
        self.first.extend(other.first);
        self.whole.extend(other.whole);
    }
}

/// Requests that arrive every 10 ms, whatever became of those before.
async fn arrivals<F>(request: impl Fn(u32) -> F) -> Latencies
where
    F: Future<Output = Run> + Send + 'static,
{
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    let mut requests = JoinSet::new();
    for number in 0..PACED_REQUESTS {
        ticks.tick().await;
        requests.spawn(timed_async(request(number)));
    }
    let mut latencies = Latencies::default();
    while let Some(done) = requests.join_next().await {
        let (seconds, run) = done.unwrap();
        latencies.whole.push(seconds * 1e3);
        latencies.first.push(run.first_token * 1e3);
    }
    latencies
}

/// A request to the engine itself.
async fn bare_run(engine: Handle, prompt: Arc<[Token]>) -> Run {
    let request = Generate {
        prompt,
        sampling: Sampling::default(),
        output_max: NonZeroU32::new(PACED_TOKENS).unwrap(),
        priority: Priority::default(),
        timeout: None,
        tenant: String::new(),
        weight: Weight::ONE,
        cache_salt: String::new(),
    };
    let (first_token, (mut stream, mut run)) = timed_async(async {
        let mut stream = engine.generate(request).await.unwrap();
        let mut run = Run::default();
        while run.tokens == 0 {
            run.tokens += stream.next().await.unwrap().tokens.len() as u32;
        }
        (stream, run)
    })
    .await;
    run.first_token = first_token;
    while let Some(progress) = stream.next().await {
        run.tokens += progress.tokens.len() as u32;
    }
    run
}

const PROMPT: &str = "A lift that never stops.";

/// What one stream gave.
#[derive(Default)]
struct Run {
    tokens: u32,
    /// Messages that held tokens.
    messages: u32,
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
        input: Some(Input::Prompt(PROMPT.to_owned())),
        stopping: Some(stopping),
        ..Default::default()
    };
    let (first_token, (mut events, mut run)) = timed_async(async {
        let mut events = client.generate(request).await.unwrap();
        let mut run = Run::default();
        while run.tokens == 0 {
            run.take(events.next().await.unwrap().unwrap());
        }
        (events, run)
    })
    .await;
    run.first_token = first_token;
    while let Some(event) = events.next().await.unwrap() {
        run.take(event);
    }
    run
}

impl Run {
    fn take(&mut self, event: Event) {
        if let Event::Delta(delta) = event {
            self.tokens += delta.token_ids.len() as u32;
            self.messages += 1;
        }
    }
}

async fn connect(address: &str, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(Client::connect(format!("http://{address}")).await.unwrap());
    }
    clients
}

/// A server of one fake decoder on a free port.
async fn start(latency: Duration) -> Stack {
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
    let engine = handle.clone();
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
    Stack { address, engine }
}

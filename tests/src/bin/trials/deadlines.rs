//! Thousands of requests that have from a millisecond to five seconds: each has its answer or its
//! DEADLINE_EXCEEDED in time, and nothing is computed for those who are gone.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use paternoster_client::v1::GenerateRequest;
use paternoster_client::v1::generate_response::Event;
use paternoster_client::{Client, Retry, Session};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::clock::Stopwatch;
use crate::metrics::Metrics;
use crate::server::Server;
use crate::stream::{Stream, ask};
use crate::verdict::Verdict;

const WORKERS: u64 = 500;
const EACH: u64 = 10;
const CONNECTIONS: usize = 8;
/// Milliseconds; as many requests have 1 to 10 as have 100 to 1,000.
const DEADLINES_MS: (f64, f64) = (1.0, 5000.0);
const TOKENS: std::ops::Range<u32> = 1..100;
/// What may lie between a deadline and the end of its call: a wide bound, for this machine computes
/// for 500 requests at once, and the client works on it too.
const SLACK: Duration = Duration::from_secs(5);
/// Clocks are read at both ends.
const EARLY: Duration = Duration::from_millis(2);

/// Who keeps the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeper {
    /// The server alone: the deadline stands in the request.
    Server,
    /// Both: the deadline is that of the call.
    Both,
}

/// How requests ended.
#[derive(Debug, Default)]
struct Ends {
    answered: u64,
    expired: u64,
    /// Neither, or too early, or cut short.
    wrong: Vec<String>,
    /// After the deadline.
    late_us: Vec<u64>,
}

pub(crate) async fn run() -> Verdict {
    let mut verdict = Verdict::new("deadlines");
    let room = (2 * WORKERS).to_string();
    let flags = [
        "--max-waiting-requests",
        &room,
        "--max-concurrent-requests",
        &room,
    ];
    let server = Server::demo(&flags).await;
    let clients = server.connect(CONNECTIONS).await;
    let blocks = server.metrics().await.blocks();
    for (name, keeper) in [("server", Keeper::Server), ("both", Keeper::Both)] {
        let before = server.metrics().await;
        let mut ends = all(&clients, keeper).await;
        let freed = server.until(Metrics::idle).await;
        let after = server.metrics().await;
        let count = |code| after.calls(code) - before.calls(code);
        judge(&mut verdict, name, &mut ends);
        verdict.fact(&format!("{name}_freed_after_ms"), freed);
        verdict.equal(&format!("{name}_kv_blocks_active"), after.active(), 0);
        verdict.equal(&format!("{name}_running"), after.running(), 0);
        if keeper == Keeper::Server {
            verdict.equal("server_counted_answers", count("OK"), ends.answered);
            verdict.equal(
                "server_counted_expired",
                count("DEADLINE_EXCEEDED"),
                ends.expired,
            );
        } else if count("OK") < ends.answered || count("") > WORKERS * EACH {
            // A client's time may be over before its call is sent, or while its answer is on the way.
            verdict.fails(format!(
                "{} answers counted, {} calls",
                count("OK"),
                count("")
            ));
        }
        let tokens = after.sum("paternoster_generation_tokens_total", "");
        tokio::time::sleep(Duration::from_millis(300)).await;
        let later = server
            .metrics()
            .await
            .sum("paternoster_generation_tokens_total", "");
        verdict.equal(&format!("{name}_tokens_after_the_end"), later - tokens, 0);
    }
    let metrics = server.metrics().await;
    verdict.equal("kv_blocks", metrics.blocks(), blocks);
    verdict.equal("panics", metrics.sum("paternoster_panics_total", ""), 0);
    verdict
}

async fn all(clients: &[Client], keeper: Keeper) -> Ends {
    let ends = Arc::new(Mutex::new(Ends::default()));
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let client = clients[worker as usize % CONNECTIONS].clone();
        let ends = Arc::clone(&ends);
        workers.spawn(async move {
            let mut random = ChaCha8Rng::seed_from_u64(worker);
            for _ in 0..EACH {
                one(&client, keeper, &mut random, &ends).await;
            }
        });
    }
    while let Some(done) = workers.join_next().await {
        done.expect("a worker does not panic");
    }
    Arc::into_inner(ends).unwrap().into_inner().unwrap()
}

async fn one(client: &Client, keeper: Keeper, random: &mut ChaCha8Rng, ends: &Mutex<Ends>) {
    let (shortest, longest) = DEADLINES_MS;
    let exponent: f64 = random.random_range(shortest.ln()..longest.ln());
    let deadline = Duration::from_millis(exponent.exp() as u64);
    let tokens = random.random_range(TOKENS);
    let request = ask("Tell me about lifts.", tokens);
    let begun = Stopwatch::start();
    let answer = match keeper {
        Keeper::Server => by_server(client, request, deadline).await,
        Keeper::Both => by_both(client, request, deadline).await,
    };
    let took = begun.elapsed();
    let mut ends = ends.lock().unwrap();
    ends.late_us
        .push(took.saturating_sub(deadline).as_micros() as u64);
    match answer {
        Ok(count) if count == tokens => ends.answered += 1,
        Err(status) if status.code() == Code::DeadlineExceeded && took + EARLY >= deadline => {
            ends.expired += 1;
        }
        other => ends.wrong.push(format!(
            "{deadline:?}, {tokens} tokens: {other:?} after {took:?}"
        )),
    }
}

async fn by_server(
    client: &Client,
    request: GenerateRequest,
    deadline: Duration,
) -> Result<u32, Status> {
    let request = GenerateRequest {
        deadline_ms: Some(deadline.as_millis() as u64),
        ..request
    };
    let mut stream = Stream::open(client, request).await?;
    stream.read().await?;
    Ok(stream.tokens.len() as u32)
}

async fn by_both(
    client: &Client,
    request: GenerateRequest,
    deadline: Duration,
) -> Result<u32, Status> {
    let once = Retry {
        attempts: 1,
        ..Retry::default()
    };
    let session = Session::over(client.clone())
        .with_timeout(deadline)
        .with_retry(once);
    let mut generation = session.generate(request).await?;
    let mut tokens = 0;
    while let Some(event) = generation.next().await? {
        if let Event::Delta(delta) = event {
            tokens += delta.token_ids.len() as u32;
        }
    }
    Ok(tokens)
}

fn judge(verdict: &mut Verdict, name: &str, ends: &mut Ends) {
    ends.late_us.sort_unstable();
    let late = |share: f64| {
        let place = (share * ends.late_us.len() as f64).ceil() as usize;
        ends.late_us[place.clamp(1, ends.late_us.len()) - 1]
    };
    verdict.fact(&format!("{name}_answered"), ends.answered);
    verdict.fact(&format!("{name}_expired"), ends.expired);
    verdict.fact(&format!("{name}_late_p50_us"), late(0.5));
    verdict.fact(&format!("{name}_late_p99_us"), late(0.99));
    let slack_us = SLACK.as_micros() as u64;
    verdict.at_most(&format!("{name}_late_most_us"), late(1.0), slack_us);
    verdict.equal(&format!("{name}_wrong"), ends.wrong.len() as u64, 0);
    if let Some(first) = ends.wrong.first() {
        verdict.fails(first.clone());
    }
    if ends.answered == 0 || ends.expired == 0 {
        verdict.fails(format!("{name}: the deadlines are no mix"));
    }
}

//! Many streams at once: none fails, and memory grows by little for each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use paternoster_client::v1::{WatchLoadRequest, WatchLoadResponse};
use tokio::task::JoinSet;
use tonic::Streaming;

use crate::clock::Stopwatch;
use crate::metrics::Metrics;
use crate::server::Server;
use crate::stream::{ask, whole};
use crate::verdict::Verdict;

const STREAMS: usize = 2000;
const CONNECTIONS: usize = 20;
const HELD: Duration = Duration::from_mins(1);
const TOKENS: u32 = 64;

/// What the server may take in all.
const RSS_MAX: u64 = (150 << 20) + STREAMS as u64 * (12 << 10);

async fn server() -> Server {
    // The KV cache is a map that fills as it is used: a small one leaves the streams visible.
    let flags = [
        "--max-concurrent-requests",
        "2500",
        "--max-waiting-requests",
        "2500",
        "--kv-cache-size",
        "48MiB",
    ];
    Server::demo(&flags).await
}

/// 2,000 generations at once for a minute; a new one follows on each that ends.
pub(crate) async fn held() -> Verdict {
    let mut verdict = Verdict::new("held");
    let server = server().await;
    let clients = server.connect(CONNECTIONS).await;
    for _ in 0..200 {
        whole(&clients[0], ask("Warm up.", TOKENS)).await.unwrap();
    }
    let base = server.rss();
    let (finished, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let begun = Stopwatch::start();
    let mut workers = JoinSet::new();
    for stream in 0..STREAMS {
        let client = clients[stream % CONNECTIONS].clone();
        let (finished, failed) = (Arc::clone(&finished), Arc::clone(&failed));
        workers.spawn(async move {
            while begun.elapsed() < HELD {
                let done = whole(&client, ask("Tell me about lifts.", TOKENS)).await;
                let wrong = done.is_ok_and(|tokens| tokens.len() == TOKENS as usize);
                let counter = if wrong { &finished } else { &failed };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let (mut highest, mut most) = (0, 0);
    while begun.elapsed() < HELD {
        tokio::time::sleep(Duration::from_secs(1)).await;
        highest = highest.max(server.rss());
        let calls = server.metrics().await;
        most = most.max(calls.sum("paternoster_calls_in_flight", "Generate"));
    }
    while workers.join_next().await.is_some() {}
    verdict.fact("streams", STREAMS);
    verdict.fact("connections", CONNECTIONS);
    verdict.fact("finished", finished.load(Ordering::Relaxed));
    verdict.equal("failed", failed.load(Ordering::Relaxed), 0);
    verdict.fact("in_flight_most", most);
    verdict.fact("rss_base_kib", base >> 10);
    verdict.fact(
        "rss_per_1000_streams_kib",
        (highest.saturating_sub(base) / STREAMS as u64 * 1000) >> 10,
    );
    verdict.at_most("rss_kib", highest >> 10, RSS_MAX >> 10);
    let freed = server.until(Metrics::idle).await;
    verdict.equal("idle_in_the_end", freed.is_some().into(), 1);
    verdict
}

/// 2,000 streams on which nothing happens.
pub(crate) async fn idle() -> Verdict {
    let mut verdict = Verdict::new("idle");
    let server = server().await;
    let clients = server.connect(CONNECTIONS).await;
    let watch = |number: usize| {
        let mut control = clients[number % CONNECTIONS].control();
        async move {
            let request = WatchLoadRequest {
                model: String::new(),
                interval_ms: Some(60_000),
            };
            let mut stream = control.watch_load(request).await.unwrap().into_inner();
            stream.message().await.unwrap().expect("a first answer");
            stream
        }
    };
    // The first streams of a connection make its buffers, which are not theirs alone.
    let mut held: Vec<Streaming<WatchLoadResponse>> = Vec::new();
    for number in 0..CONNECTIONS * 10 {
        held.push(watch(number).await);
    }
    let base = server.rss();
    for number in 0..STREAMS {
        held.push(watch(number).await);
    }
    let more = server.rss().saturating_sub(base);
    verdict.fact("streams", STREAMS);
    verdict.fact("rss_base_kib", base >> 10);
    verdict.at_most(
        "rss_per_1000_idle_streams_kib",
        (more / STREAMS as u64 * 1000) >> 10,
        // Twice what is aimed at: connections, tasks and buffers differ from system to system.
        24 << 10,
    );
    drop(held);
    let left = server.until(|metrics| metrics.running() == 0).await;
    verdict.equal("idle_in_the_end", left.is_some().into(), 1);
    verdict
}

//! A storm of cancels at random moments of a call's life: nothing of them stays.

use std::time::Duration;

use paternoster_client::Client;
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;
use tokio::task::JoinSet;

use crate::metrics::Metrics;
use crate::server::Server;
use crate::stream::{Stream, ask, whole};
use crate::verdict::Verdict;

const WORKERS: u64 = 200;
const EACH: u64 = 100;
const CONNECTIONS: usize = 8;
const QUESTION: &str = "What is a paternoster?";

pub(crate) async fn run() -> Verdict {
    let mut verdict = Verdict::new("cancels");
    let server = Server::demo(&["--max-batch-size", "128"]).await;
    let clients = server.connect(CONNECTIONS).await;
    let before = whole(&clients[0], ask(QUESTION, 32)).await.unwrap();
    server.until(Metrics::idle).await;
    let blocks = server.metrics().await.blocks();
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let client = clients[worker as usize % CONNECTIONS].clone();
        workers.spawn(async move {
            let mut random = ChaCha8Rng::seed_from_u64(worker);
            for _ in 0..EACH {
                cancel(&client, &mut random).await;
            }
        });
    }
    while let Some(done) = workers.join_next().await {
        if done.is_err() {
            verdict.fails("a worker panicked".to_owned());
        }
    }
    verdict.fact("cancels", WORKERS * EACH);
    let freed = server.until(Metrics::idle).await;
    verdict.fact("freed_after_ms", freed);
    let metrics = server.metrics().await;
    verdict.equal("kv_blocks_active", metrics.active(), 0);
    verdict.equal("kv_blocks", metrics.blocks(), blocks);
    verdict.equal("running", metrics.running(), 0);
    for phase in ["queue", "prefill", "decode"] {
        let label = format!("phase=\"{phase}\"");
        let count = metrics.sum("paternoster_client_cancellations_total", &label);
        verdict.fact(&format!("cancelled_in_{phase}"), count);
    }
    verdict.equal("panics", metrics.sum("paternoster_panics_total", ""), 0);
    let after = whole(&clients[0], ask(QUESTION, 32)).await.unwrap();
    verdict.equal("same_answer_after", (after == before).into(), 1);
    verdict
}

/// Leaves before the answer began, at once after it, or after some messages.
async fn cancel(client: &Client, random: &mut ChaCha8Rng) {
    // A prompt of its own each time: nothing is found in the cache, so the prompt is computed too.
    let words = random.random_range(1..60);
    let text: String = (0..words)
        .map(|_| char::from(random.random_range(b'a'..=b'z')))
        .collect();
    let opening = Stream::open(client, ask(&text, 400));
    let patience = Duration::from_micros(random.random_range(0..200_000));
    let Ok(opened) = tokio::time::timeout(patience, opening).await else {
        return;
    };
    // A full queue is an answer, and leaves nothing either.
    let Ok(mut stream) = opened else { return };
    for _ in 0..random.random_range(0..20) {
        match stream.step().await {
            Ok(true) => {}
            _ => return,
        }
    }
}

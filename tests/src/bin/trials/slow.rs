//! Readers that do not read, beside such that do: on the same connection and on another.

use paternoster_client::Client;

use crate::clock::Stopwatch;
use crate::metrics::Metrics;
use crate::raw::{Cut, RawCall, RawClient};
use crate::server::Server;
use crate::stream::{Stream, ask};
use crate::verdict::Verdict;

const UNREAD: usize = 200;
/// Bytes that an unread answer may send: less than its first messages have.
const WINDOW: u32 = 512;
const TOKENS: u32 = 64;

pub(crate) async fn run() -> Verdict {
    let mut verdict = Verdict::new("slow");
    let flags = [
        "--stream-stall-timeout",
        "5s",
        "--max-batch-size",
        "256",
        "--max-waiting-requests",
        "512",
    ];
    let server = Server::demo(&flags).await;
    let clients = server.connect(1).await;
    let (idle, _) = times(&clients[0]).await;
    let base = server.metrics().await;
    let unread = RawClient::connect(&server.address, WINDOW, Cut::Close).await;
    let mut calls = Vec::new();
    for _ in 0..UNREAD {
        calls.push(unread.generate(&ask("Tell me about lifts.", 400)).await);
    }
    // Those who do read, at once: one beside the unread ones on their connection, one elsewhere.
    let same = async {
        let call = unread.generate(&ask("What is 7 + 5?", TOKENS)).await;
        read(call).await
    };
    let (same, (first, finished)) = tokio::join!(same, times(&clients[0]));
    verdict.fact("unread", UNREAD);
    verdict.fact("ttft_idle_ms", idle);
    verdict.fact("ttft_beside_ms", first);
    verdict.equal("tokens_on_another_connection", finished, TOKENS.into());
    let same = same.unwrap_or_else(|error| error.to_string());
    verdict.fact("status_on_the_same_connection", same.clone());
    if same != "0" {
        verdict.fails(format!("the reader on the same connection: {same}"));
    }
    let ended = server.until(Metrics::idle).await;
    verdict.fact("unread_ended_after_ms", ended);
    verdict.fact("unread_ended_after_ms_promised", 5000 + 1250);
    let metrics = server.metrics().await;
    verdict.equal("kv_blocks_active", metrics.active(), 0);
    verdict.equal("kv_blocks", metrics.blocks(), base.blocks());
    let reasons = metrics.sum("paternoster_call_errors_total", "CONSUMER_TOO_SLOW");
    verdict.equal("told_too_slow", reasons, UNREAD as u64);
    drop(calls);
    verdict
}

/// Milliseconds to the first token of a generation, and how many tokens it had.
async fn times(client: &Client) -> (u64, u64) {
    let begun = Stopwatch::start();
    let mut stream = Stream::open(client, ask("What is 7 + 5?", TOKENS))
        .await
        .unwrap();
    while stream.tokens.is_empty() && stream.step().await.unwrap() {}
    let first = begun.ms();
    stream.read().await.unwrap();
    (first, stream.tokens.len() as u64)
}

/// Reads an answer, giving its window back; its status.
async fn read(call: RawCall) -> Result<String, h2::Error> {
    let mut body = call.response.await?.into_body();
    while let Some(part) = body.data().await {
        let length = part?.len();
        body.flow_control().release_capacity(length)?;
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    let status = trailers
        .get("grpc-status")
        .and_then(|status| status.to_str().ok());
    Ok(status.unwrap_or("none").to_owned())
}

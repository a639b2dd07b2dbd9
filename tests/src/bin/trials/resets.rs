//! Streams that are reset and connections that are cut in the middle of an answer.

use h2::Reason;

use crate::clock::Stopwatch;
use crate::metrics::Metrics;
use crate::raw::{Cut, RawClient};
use crate::server::Server;
use crate::stream::{ask, whole};
use crate::verdict::Verdict;

const STREAM_RESETS: usize = 250;
const CONNECTION_CUTS: usize = 250;
/// Bytes an answer may send ahead: enough that it goes on by itself.
const WINDOW: u32 = 1 << 20;

pub(crate) async fn run() -> Verdict {
    let mut verdict = Verdict::new("resets");
    let server = Server::demo(&[]).await;
    let clients = server.connect(1).await;
    let question = || ask("What is a paternoster?", 32);
    let before = whole(&clients[0], question()).await.unwrap();
    server.until(Metrics::idle).await;
    let start = server.metrics().await;
    let connections = start.sum("paternoster_connections", "");
    let long = ask("Tell me about paged attention.", 400);
    let reasons = [
        Reason::CANCEL,
        Reason::INTERNAL_ERROR,
        Reason::NO_ERROR,
        Reason::FLOW_CONTROL_ERROR,
    ];
    let client = RawClient::connect(&server.address, WINDOW, Cut::Close).await;
    for number in 0..STREAM_RESETS {
        let mut call = client.generate(&long).await;
        // Every other one has begun to answer.
        if number % 2 == 0 {
            (&mut call.response).await.expect("the head of an answer");
        }
        call.reset(reasons[number % reasons.len()]);
    }
    verdict.fact("stream_resets", STREAM_RESETS);
    let freed = server.until(Metrics::idle).await;
    verdict.fact("freed_after_resets_ms", freed);
    drop(client);
    for number in 0..CONNECTION_CUTS {
        let cut = if number % 2 == 0 {
            Cut::Close
        } else {
            Cut::Reset
        };
        let client = RawClient::connect(&server.address, WINDOW, cut).await;
        let mut call = client.generate(&long).await;
        if number % 4 < 2 {
            (&mut call.response).await.expect("the head of an answer");
        }
    }
    verdict.fact("connection_cuts", CONNECTION_CUTS);
    let begun = Stopwatch::start();
    let gone = server
        .until(|metrics| {
            metrics.idle() && metrics.sum("paternoster_connections", "") <= connections
        })
        .await;
    verdict.fact("freed_after_cuts_ms", gone.map(|_| begun.ms()));
    let metrics = server.metrics().await;
    verdict.equal("kv_blocks_active", metrics.active(), 0);
    verdict.equal("kv_blocks", metrics.blocks(), start.blocks());
    verdict.equal("running", metrics.running(), 0);
    verdict.equal("panics", metrics.sum("paternoster_panics_total", ""), 0);
    let after = whole(&clients[0], question()).await.unwrap();
    verdict.equal("same_answer_after", (after == before).into(), 1);
    verdict
}

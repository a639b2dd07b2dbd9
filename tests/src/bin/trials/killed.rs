//! Client processes that are killed, and such that stop and hold their connections.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use paternoster_client::Client;

use crate::server::{Server, beside, signal};
use crate::stream::{Stream, ask};
use crate::verdict::Verdict;

const KILLED: usize = 20;
const STOPPED: usize = 5;
/// Streams of each process.
const STREAMS: usize = 2;
const TOKENS: u32 = 12_000;
/// A ping every 20 s, 10 s to answer it, and one more.
const STOPPED_MS: u64 = 31_000;

pub(crate) async fn run() -> Verdict {
    let mut verdict = Verdict::new("killed");
    let server = Server::heavy(&[]).await;
    let blocks = server.metrics().await.blocks();
    let mut clients: Vec<Child> = Vec::new();
    for _ in 0..KILLED + STOPPED {
        clients.push(start(&server.address));
    }
    let running = |metrics: &crate::metrics::Metrics| {
        metrics.sum("paternoster_calls_in_flight", "Generate") as usize
    };
    for client in &mut clients {
        let mut line = String::new();
        let output = client.stdout.as_mut().expect("piped");
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "running");
    }
    verdict.equal(
        "streams",
        running(&server.metrics().await) as u64,
        ((KILLED + STOPPED) * STREAMS) as u64,
    );
    for client in &mut clients[..KILLED] {
        client.kill().unwrap();
    }
    let freed = server
        .until(|metrics| running(metrics) <= STOPPED * STREAMS)
        .await;
    verdict.fact("killed", KILLED);
    verdict.fact("freed_after_kill_ms", freed);
    for client in &clients[KILLED..] {
        signal(client.id(), "STOP");
    }
    let freed = server
        .until(|metrics| metrics.idle() && metrics.sum("paternoster_connections", "") <= 1)
        .await;
    verdict.fact("stopped", STOPPED);
    verdict.fact("freed_after_stop_ms_promised", STOPPED_MS);
    verdict.at_most(
        "freed_after_stop_ms",
        freed.unwrap_or(u64::MAX),
        10 * STOPPED_MS,
    );
    let metrics = server.metrics().await;
    verdict.equal("kv_blocks_active", metrics.active(), 0);
    verdict.equal("kv_blocks", metrics.blocks(), blocks);
    for client in &mut clients {
        let _killed = client.kill();
        let _reaped = client.wait();
    }
    verdict
}

fn start(address: &str) -> Child {
    Command::new(beside("trials"))
        .args(["client", address, &STREAMS.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Opens streams, says so, and reads them for ever.
pub(crate) async fn client(address: &str, streams: usize) {
    let client = Client::connect(format!("http://{address}")).await.unwrap();
    let mut open = Vec::new();
    for _ in 0..streams {
        let mut stream = Stream::open(&client, ask("Go on.", TOKENS)).await.unwrap();
        stream.step().await.unwrap();
        open.push(tokio::spawn(async move { stream.read().await }));
    }
    println!("running");
    for stream in open {
        let _ended = stream.await;
    }
}

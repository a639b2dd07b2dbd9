//! Ten times as many requests as can be served: what is served stays good, and the rest is told so.

use std::process::Command;

use serde_json::Value;

use crate::clock::Stopwatch;
use crate::metrics::Metrics;
use crate::server::{Server, beside};
use crate::stream::{ask, whole};
use crate::verdict::Verdict;

/// Eight sequences at once, and by default as many waiting.
const FLAGS: [&str; 2] = ["--max-batch-size", "8"];
const REQUEST: [&str; 6] = [
    "--prompt-tokens",
    "16",
    "--max-tokens",
    "32",
    "--ignore-eos",
    "--quiet",
];

pub(crate) async fn run() -> Verdict {
    let mut verdict = Verdict::new("overload");
    let server = Server::heavy(&FLAGS).await;
    let peak = bench(&server, &["-c", "8", "--duration", "8s", "--warmup", "2s"]).await;
    let peak_rate = number(&peak, "/rates/requests");
    let rate = format!("{:.2}", 10.0 * peak_rate);
    let flags = ["--rate", &rate, "--duration", "12s", "--connections", "8"];
    let over = bench(&server, &flags).await;
    let begun = Stopwatch::start();
    let clients = server.connect(1).await;
    let answer = whole(&clients[0], ask("Still there?", 32)).await;
    verdict.fact("recovered_after_ms", begun.ms());
    verdict.equal("answer_after", answer.is_ok().into(), 1);
    verdict.fact("peak_requests_per_second", peak_rate);
    verdict.fact("offered_requests_per_second", 10.0 * peak_rate);
    verdict.fact(
        "goodput_requests_per_second",
        number(&over, "/rates/requests"),
    );
    for (name, at) in [
        ("ttft_peak_p50_ms", (&peak, "/latencies/ttft/p50")),
        ("ttft_peak_p99_ms", (&peak, "/latencies/ttft/p99")),
        ("ttft_overload_p50_ms", (&over, "/latencies/ttft/p50")),
        ("ttft_overload_p99_ms", (&over, "/latencies/ttft/p99")),
        ("e2e_peak_p95_ms", (&peak, "/latencies/e2e/p95")),
        ("e2e_overload_p95_ms", (&over, "/latencies/e2e/p95")),
    ] {
        verdict.fact(name, number(at.0, at.1));
    }
    verdict.fact(
        "e2e_p95_over_that_of_the_peak",
        number(&over, "/latencies/e2e/p95") / number(&peak, "/latencies/e2e/p95"),
    );
    let failed = number(&over, "/requests/failed") as u64;
    let errors = over["errors"].as_array().cloned().unwrap_or_default();
    let refused: u64 = errors
        .iter()
        .filter(|error| error["reason"] == "QUEUE_FULL")
        .filter_map(|error| error["with_retry"].as_u64())
        .sum();
    verdict.fact("completed", number(&over, "/requests/completed"));
    verdict.equal("refused_with_retry", refused, failed);
    verdict.equal(
        "unfinished",
        number(&over, "/requests/unfinished") as u64,
        0,
    );
    if failed == 0 {
        verdict.fails("ten times the peak was no overload".to_owned());
    }
    let freed = server.until(Metrics::idle).await;
    verdict.equal("idle_in_the_end", freed.is_some().into(), 1);
    verdict
}

fn number(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).unwrap()
}

/// Runs `paternoster bench` and reads its report.
async fn bench(server: &Server, flags: &[&str]) -> Value {
    let mut command = Command::new(beside("paternoster"));
    command.args(["bench", "--json", "-", "--addr", &server.address]);
    command.args(REQUEST).args(flags);
    let done = tokio::task::spawn_blocking(move || command.output()).await;
    let done = done.unwrap().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "bench: {said}");
    serde_json::from_slice(&done.stdout).unwrap()
}

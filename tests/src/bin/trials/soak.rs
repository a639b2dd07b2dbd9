//! Mixed load with one in a hundred of every fault, for as long as wanted: nothing grows.

use std::time::Duration;

use h2::Reason;
use paternoster_client::Client;
use paternoster_client::v1::EmbedRequest;
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;
use serde_json::json;
use tokio::task::JoinSet;
use tonic::Code;

use crate::clock::Stopwatch;
use crate::metrics::Metrics;
use crate::raw::{Cut, RawClient};
use crate::server::Server;
use crate::stream::{Stream, ask, whole};
use crate::verdict::Verdict;

const WORKERS: u64 = 16;
const CONNECTIONS: usize = 4;
/// Between two requests of a worker, so that the machine is not full.
const PAUSE_MS: std::ops::Range<u64> = 0..200;
const SAMPLE: Duration = Duration::from_secs(5);

/// What is looked at again and again.
#[derive(Clone, Copy, Debug)]
struct Sample {
    rss: u64,
    fds: u64,
    series: u64,
    blocks: u64,
}

/// How requests ended.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    well: u64,
    faults: u64,
    wrong: u64,
}

pub(crate) async fn run(minutes: u64) -> Verdict {
    let mut verdict = Verdict::new("soak");
    let flags = ["--stream-stall-timeout", "2s", "--kv-cache-size", "64MiB"];
    let server = Server::demo(&flags).await;
    let clients = server.connect(CONNECTIONS).await;
    let expected = whole(&clients[0], ask(QUESTION, 24)).await.unwrap();
    let lasts = Duration::from_secs(60 * minutes);
    let begun = Stopwatch::start();
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let worker = Worker {
            client: clients[worker as usize % CONNECTIONS].clone(),
            address: server.address.clone(),
            random: ChaCha8Rng::seed_from_u64(worker),
            expected: expected.clone(),
        };
        workers.spawn(worker.run(begun, lasts));
    }
    let mut samples = Vec::new();
    while begun.elapsed() < lasts {
        tokio::time::sleep(SAMPLE).await;
        let metrics = server.metrics().await;
        samples.push(Sample {
            rss: server.rss(),
            fds: server.fds(),
            series: metrics.series(),
            blocks: metrics.blocks(),
        });
    }
    let mut counts = Counts::default();
    while let Some(done) = workers.join_next().await {
        let done = done.expect("a worker does not panic");
        counts.well += done.well;
        counts.faults += done.faults;
        counts.wrong += done.wrong;
    }
    verdict.fact("minutes", minutes);
    verdict.fact("requests_well", counts.well);
    verdict.fact("faults", counts.faults);
    verdict.equal("requests_wrong", counts.wrong, 0);
    judge(&mut verdict, &samples);
    let freed = server.until(Metrics::idle).await;
    verdict.equal("idle_in_the_end", freed.is_some().into(), 1);
    let metrics = server.metrics().await;
    verdict.equal("kv_blocks_active", metrics.active(), 0);
    verdict.equal("panics", metrics.sum("paternoster_panics_total", ""), 0);
    verdict.fact(
        "engine_restarts",
        metrics.sum("paternoster_engine_restarts_total", ""),
    );
    verdict
}

/// Compares the second fifth of the time with the last one.
fn judge(verdict: &mut Verdict, samples: &[Sample]) {
    let fifth = (samples.len() / 5).max(1);
    let early = &samples[fifth.min(samples.len() - 1)..(2 * fifth).min(samples.len())];
    let late = &samples[samples.len() - fifth..];
    let median = |part: &[Sample], of: fn(&Sample) -> u64| {
        let mut values: Vec<u64> = part.iter().map(of).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    let pair = |of: fn(&Sample) -> u64| (median(early, of), median(late, of));
    let (rss_early, rss_late) = pair(|sample| sample.rss >> 10);
    verdict.fact("rss_kib", json!([rss_early, rss_late]));
    let minutes = samples.chunks(12).filter_map(|minute| minute.last());
    let by_minute: Vec<u64> = minutes.map(|sample| sample.rss >> 10).collect();
    verdict.fact("rss_kib_by_minute", json!(by_minute));
    let (fds_early, fds_late) = pair(|sample| sample.fds);
    verdict.fact("fds", json!([fds_early, fds_late]));
    let (series_early, series_late) = pair(|sample| sample.series);
    verdict.fact("series", json!([series_early, series_late]));
    let (blocks_early, blocks_late) = pair(|sample| sample.blocks);
    verdict.fact("kv_blocks", json!([blocks_early, blocks_late]));
    verdict.at_most(
        "rss_growth_kib",
        rss_late.saturating_sub(rss_early),
        16 << 10,
    );
    verdict.at_most("fds_growth", fds_late.saturating_sub(fds_early), 8);
    verdict.at_most(
        "series_growth",
        series_late.saturating_sub(series_early),
        16,
    );
    let always = samples
        .iter()
        .all(|sample| sample.blocks == samples[0].blocks);
    verdict.equal("kv_blocks_always_the_same", always.into(), 1);
}

const QUESTION: &str = "What is a paternoster?";

struct Worker {
    client: Client,
    address: String,
    random: ChaCha8Rng,
    expected: Vec<u32>,
}

impl Worker {
    async fn run(mut self, begun: Stopwatch, lasts: Duration) -> Counts {
        let mut counts = Counts::default();
        while begun.elapsed() < lasts {
            let pause = self.random.random_range(PAUSE_MS);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            // One in a hundred of each fault; the rest is ordinary.
            let drawn = self.random.random_range(0..100);
            let ended = if drawn < 6 {
                counts.faults += 1;
                self.fault(drawn).await
            } else {
                self.ordinary(drawn).await
            };
            if ended {
                counts.well += 1;
            } else {
                counts.wrong += 1;
            }
        }
        counts
    }

    /// Whether an ordinary request was answered as it should be.
    async fn ordinary(&mut self, drawn: u32) -> bool {
        if drawn < 30 {
            let request = EmbedRequest {
                inputs: vec!["A lift that never stops.".to_owned(); 4],
                ..EmbedRequest::default()
            };
            let answer = self.client.inference().embed(request).await;
            return answer.is_ok_and(|answer| answer.into_inner().embeddings.len() == 4);
        }
        if drawn < 60 {
            let tokens = self.random.random_range(1..100);
            // Short words: the tokenizer remembers ten thousand, and long ones fill its memory for
            // longer than a short soak lasts.
            let letters = (0..self.random.random_range(1..200)).map(|place| match place % 5 {
                4 => ' ',
                _ => char::from(self.random.random_range(b'a'..=b'z')),
            });
            let text: String = letters.collect();
            let answer = whole(&self.client, ask(&text, tokens)).await;
            return answer.is_ok_and(|answer| answer.len() == tokens as usize);
        }
        let answer = whole(&self.client, ask(QUESTION, 24)).await;
        answer.is_ok_and(|answer| answer == self.expected)
    }

    /// Whether a fault was met as it should be.
    async fn fault(&mut self, drawn: u32) -> bool {
        let long = ask("Tell me about paged attention.", 300);
        match drawn {
            // Left after some messages.
            0 => {
                let Ok(mut stream) = Stream::open(&self.client, long).await else {
                    return false;
                };
                for _ in 0..self.random.random_range(0..9) {
                    if stream.step().await.is_err() {
                        return false;
                    }
                }
                true
            }
            // Reset; cut; left unread until the server ends it.
            1 => {
                let raw = RawClient::connect(&self.address, 1 << 20, Cut::Close).await;
                raw.generate(&long).await.reset(Reason::INTERNAL_ERROR);
                true
            }
            2 => {
                let raw = RawClient::connect(&self.address, 1 << 20, Cut::Reset).await;
                let mut call = raw.generate(&long).await;
                (&mut call.response).await.is_ok()
            }
            3 => {
                let raw = RawClient::connect(&self.address, 64, Cut::Close).await;
                let _call = raw.generate(&long).await;
                tokio::time::sleep(Duration::from_millis(2500)).await;
                true
            }
            // Wrong; without time.
            4 => {
                let mut wrong = long;
                wrong.tenant = "x".repeat(1000);
                self.code(wrong).await == Code::InvalidArgument
            }
            _ => {
                let mut hasty = long;
                hasty.deadline_ms = Some(1);
                matches!(self.code(hasty).await, Code::DeadlineExceeded | Code::Ok)
            }
        }
    }

    async fn code(&self, request: paternoster_client::v1::GenerateRequest) -> Code {
        match whole(&self.client, request).await {
            Ok(_) => Code::Ok,
            Err(status) => status.code(),
        }
    }
}

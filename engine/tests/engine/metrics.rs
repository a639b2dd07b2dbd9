//! The series that a run leaves behind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use engine::config::EncodeConfig;
use engine::encode::EncodeLimits;
use engine::executor::{EncodeInput, Output, Pooling};
use engine::fake::{Fault, ManualClock};
use engine::handle::{End, Health, Tokens};
use engine::metrics::{HISTOGRAMS, Kind, METRICS, describe};
use engine::{start, start_encoder};
use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};

use crate::bench::{
    Bench, LIMITS, START_TIMEOUT, config, device, prompt, reach, read, request, soon, until,
};

/// Keeps every counter's value, every gauge's bits and every histogram's number of samples.
#[derive(Debug, Default)]
struct Book {
    values: Mutex<BTreeMap<String, (Kind, Arc<AtomicU64>)>>,
    described: Mutex<BTreeSet<String>>,
}

struct Samples(Arc<AtomicU64>);

impl HistogramFn for Samples {
    fn record(&self, _value: f64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Book {
    fn value(&self, key: &Key, kind: Kind) -> Arc<AtomicU64> {
        let labels: Vec<_> = key.labels().map(|l| (l.key(), l.value())).collect();
        let mut values = self.values.lock().unwrap();
        let place = values
            .entry(format!("{} {labels:?}", key.name()))
            .or_insert_with(|| (kind, Arc::default()));
        Arc::clone(&place.1)
    }

    /// The series of one model: name and labels to kind and value.
    fn of(&self, model: &str) -> BTreeMap<String, (Kind, u64)> {
        let values = self.values.lock().unwrap();
        let named = format!("\"{model}\"");
        let of_model = values.iter().filter(|(name, _)| name.contains(&named));
        of_model
            .map(|(name, (kind, value))| (name.clone(), (*kind, value.load(Ordering::Relaxed))))
            .collect()
    }
}

struct Shared(Arc<Book>);

impl Recorder for Shared {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, _: SharedString) {
        let name = name.as_str().to_owned();
        self.0.described.lock().unwrap().insert(name);
    }
    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.describe_counter(name, unit, help);
    }
    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.describe_counter(name, unit, help);
    }
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.0.value(key, Kind::Counter))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.0.value(key, Kind::Gauge))
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let samples = self.0.value(key, Kind::Histogram(&[]));
        Histogram::from_arc(Arc::new(Samples(samples)))
    }
}

/// One recorder a process.
fn book() -> Arc<Book> {
    static BOOK: OnceLock<Arc<Book>> = OnceLock::new();
    let book = BOOK.get_or_init(|| {
        let book = Arc::<Book>::default();
        metrics::set_global_recorder(Shared(Arc::clone(&book))).unwrap();
        book
    });
    Arc::clone(book)
}

/// Ten tokens for each of four requests and three vectors, on engines of these names.
async fn run(decoder: &str, encoder: &str) {
    let (device, clock) = (device(64), Arc::new(ManualClock::default()));
    let named = engine::config::EngineConfig {
        name: decoder.to_owned(),
        ..config(&clock, LIMITS)
    };
    let (handle, completion) = start(device.executors(), named);
    reach(&mut handle.health(), Health::Serving).await;
    for number in 0..4 {
        let tokens = handle.generate(request(&prompt(number % 2, 8), 10)).await;
        assert_eq!(read(&mut tokens.unwrap()).await.tokens.len(), 10);
    }
    assert!(handle.generate(request(&[], 1)).await.is_err());
    handle.drain();
    soon(completion.wait()).await.unwrap();

    let limits = EncodeLimits {
        batch_tokens_max: 64,
        batch_inputs_max: 8,
        waiting_max: 8,
        input_tokens_max: 32,
    };
    let (handle, completion) = start_encoder(device.encoders(), EncodeConfig::new(encoder, limits));
    reach(&mut handle.health(), Health::Serving).await;
    for _ in 0..3 {
        let input = EncodeInput {
            tokens: prompt(1, 4).into(),
            segments: Arc::default(),
            output: Output::Pooled(Pooling::Cls),
        };
        soon(handle.encode(input, None)).await.unwrap();
    }
    handle.drain();
    soon(completion.wait()).await.unwrap();
}

#[tokio::test]
async fn the_table_is_what_engines_register() {
    let book = book();
    run("m-table", "m-table").await;
    let names = |name: &str| name.split(' ').next().unwrap().to_owned();
    let registered: BTreeSet<_> = book.of("m-table").keys().map(|name| names(name)).collect();
    let table: BTreeSet<_> = METRICS.iter().map(|m| m.name.to_owned()).collect();
    assert_eq!(registered, table);
    assert_eq!(table.len(), METRICS.len(), "a name stands twice");
    describe();
    assert_eq!(*book.described.lock().unwrap(), table);
    for (name, buckets) in HISTOGRAMS {
        assert!(buckets.is_sorted() && !buckets.is_empty(), "{name}");
    }
    let histograms = METRICS
        .iter()
        .filter(|m| matches!(m.kind, Kind::Histogram(_)));
    assert_eq!(histograms.count(), HISTOGRAMS.len());
    for metric in METRICS {
        assert_eq!(
            metric.name.ends_with("_total"),
            metric.kind == Kind::Counter || metric.name == "vllm:iteration_tokens_total",
            "{}",
            metric.name
        );
    }
}

#[tokio::test]
async fn counts_are_right_under_both_names() {
    let book = book();
    run("m-decoder", "m-encoder").await;
    let series = book.of("m-decoder");
    let own = |name: &str, labels: &str| {
        series[&format!("paternoster_{name} [(\"model\", \"m-decoder\"){labels}]")].1
    };
    let vllm = |name: &str, labels: &str| {
        let model = r#"("model_name", "m-decoder"), ("engine", "0")"#;
        series[&format!("vllm:{name} [{model}{labels}]")].1
    };
    let expected = [
        ("prompt_tokens_total", 32),
        ("generation_tokens_total", 40),
        ("prefix_cache_queries_total", 32),
        ("prefix_cache_hits_total", 8),
        ("time_to_first_token_seconds", 4),
        ("inter_token_latency_seconds", 36),
        ("e2e_request_latency_seconds", 4),
        ("request_queue_time_seconds", 4),
    ];
    for (name, count) in expected {
        assert_eq!((own(name, ""), vllm(name, "")), (count, count), "{name}");
    }
    let finished = own("requests_finished_total", r#", ("reason", "length")"#);
    let success = vllm(
        "request_success_total",
        r#", ("finished_reason", "length")"#,
    );
    assert_eq!((finished, success), (4, 4));
    let rejects = own("admission_rejects_total", r#", ("reason", "empty_prompt")"#);
    assert_eq!(rejects, 1);
    let series = book.of("m-encoder");
    let encoded =
        r#"paternoster_encode_inputs_total [("model", "m-encoder"), ("outcome", "encoded")]"#;
    assert_eq!(series[encoded].1, 3);
    assert_eq!(
        series[r#"paternoster_encode_tokens_total [("model", "m-encoder")]"#].1,
        12
    );
}

/// The value of one of the decoder's own series of a model.
fn own(model: &str, name: &str, labels: &str) -> u64 {
    book().of(model)[&format!("paternoster_{name} [(\"model\", \"{model}\"){labels}]")].1
}

/// A decoder's engine of this name.
async fn named(model: &str) -> Bench {
    book();
    let clock = Arc::new(ManualClock::default());
    let config = engine::config::EngineConfig {
        name: model.to_owned(),
        ..config(&clock, LIMITS)
    };
    Bench::configured(device(64), clock, config).await
}

#[tokio::test]
async fn who_has_heard_enough_did_not_go_away() {
    // What the caller does after the first tokens, and how it is counted: stop, abort, cancelled.
    type Leave = fn(Tokens);
    let cases: [(&str, Leave, [u64; 3]); 2] = [
        ("m-stop", Tokens::stop, [1, 0, 0]),
        ("m-drop", drop, [0, 1, 1]),
    ];
    for (model, leave, counts) in cases {
        let bench = named(model).await;
        bench.device.hold();
        let tokens = bench.generate(request(&prompt(1, 8), 50)).await;
        bench.launched(1).await;
        bench.allow(3).await;
        leave(tokens);
        bench.device.release();
        bench.quiet().await;
        let finished = |reason: &str| {
            let reason = format!(", (\"reason\", \"{reason}\")");
            own(model, "requests_finished_total", &reason)
        };
        let phase = r#", ("phase", "decode")"#;
        let cancelled = own(model, "client_cancellations_total", phase);
        let counted = [finished("stop"), finished("abort"), cancelled];
        assert_eq!(counted, counts, "{model}");
    }
}

#[tokio::test]
async fn gauges_follow_a_failure() {
    let model = "m-failure";
    let bench = named(model).await;
    let gauges = || {
        let blocks = |state: &str| {
            let label = format!(", (\"state\", \"{state}\")");
            f64::from_bits(own(model, "kv_blocks", &label)) as u64
        };
        let [running, waiting] = ["requests_running", "requests_waiting"]
            .map(|name| f64::from_bits(own(model, name, "")) as u64);
        [running, waiting, blocks("active")]
    };
    let requests = [request(&prompt(1, 8), 50), request(&prompt(2, 8), 50)];
    let mut streams = bench.generate_held(requests).await;
    bench.allow(0).await;
    assert_eq!(gauges(), [2, 0, 5]);
    bench.device.fail_next(Fault::Error);
    bench.device.hang_starts();
    bench.device.release();
    reach(&mut bench.handle.health(), Health::Restarting).await;
    until(|| bench.device.starts() == 2).await;
    assert_eq!(gauges(), [0, 2, 0], "both wait for an executor");
    bench.clock.advance(START_TIMEOUT);
    for tokens in &mut streams {
        assert_eq!(read(tokens).await.end, Some(End::EngineDown));
    }
    assert!(soon(bench.completion.wait()).await.is_err());
    assert_eq!(gauges(), [0, 0, 0]);
    bench.device.release_hung();
}

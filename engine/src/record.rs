//! The held handles of the metrics in [`crate::metrics`]: a loop records without a look-up.

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata};
use scheduler::limits::Pool;
use scheduler::plan::Stats;
use scheduler::request::{Finish, Reject};

use crate::handle::{End, Refusal};
use crate::metrics::{self as table, Kind, Metric};

/// Where a request is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not yet started.
    Queue,
    /// Started, no token yet.
    Prefill,
    /// At least one token.
    Decode,
}

/// Why an executor was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Error,
    OutOfMemory,
    Hang,
}

/// What every engine records, whatever it runs.
#[derive(Debug)]
pub(crate) struct FrameMetrics {
    rejects: ByLabel,
    restarts: ByLabel,
    nan_rows: Counter,
}

impl FrameMetrics {
    pub(crate) fn new(model: &str) -> Self {
        let own = |metric, label, values| ByLabel::new(metric, &own_labels(model), label, values);
        Self {
            rejects: own(&table::ADMISSION_REJECTS, "reason", REJECT_REASONS),
            restarts: own(&table::RESTARTS, "cause", CAUSES),
            nan_rows: counter(&table::NAN_ROWS, own_labels(model)),
        }
    }

    pub(crate) fn refused(&self, refusal: &Refusal) {
        self.rejects.add(match refusal {
            Refusal::Reject(Reject::QueueFull { .. }) => "queue_full",
            Refusal::Reject(Reject::ShareFull { .. } | Reject::ShareTokensFull { .. }) => {
                "share_full"
            }
            Refusal::Reject(Reject::QueueTokensFull { .. }) => "queue_tokens_full",
            Refusal::Reject(Reject::WaitTooLong { .. }) => "wait_too_long",
            Refusal::Reject(Reject::TooLong { .. }) => "too_long",
            Refusal::Reject(Reject::ExceedsPool { .. }) => "exceeds_pool",
            Refusal::Reject(Reject::EmptyPrompt) => "empty_prompt",
            Refusal::Reject(Reject::Expired) => "expired",
            Refusal::Draining => "draining",
            Refusal::Unavailable => "unavailable",
        });
    }

    pub(crate) fn restarted(&self, cause: Cause) {
        self.restarts.add(match cause {
            Cause::Error => "error",
            Cause::OutOfMemory => "out_of_memory",
            Cause::Hang => "hang",
        });
    }

    pub(crate) fn not_finite(&self) {
        self.nan_rows.increment(1);
    }
}

/// What a decoder's engine records.
#[derive(Debug)]
pub(crate) struct DecoderMetrics {
    model: String,
    flow: Flow,
    running: [Gauge; 2],
    waiting: [Gauge; 2],
    blocks: [Gauge; 3],
    kv_usage: Gauge,
    finished: ByLabel,
    success: ByLabel,
    cancellations: ByLabel,
    deadlines: ByLabel,
    stalls: Counter,
    first_token: [Histogram; 2],
    inter_token: [Histogram; 2],
    e2e: [Histogram; 2],
    queue: [Histogram; 2],
    step_seconds: Histogram,
    step_tokens: [Histogram; 2],
    prompt_length: [Histogram; 2],
    generation_length: [Histogram; 2],
}

/// The counters that exist under both names.
#[derive(Debug)]
struct Flow {
    prompt: [Counter; 2],
    generation: [Counter; 2],
    queries: [Counter; 2],
    hits: [Counter; 2],
    preemptions: [Counter; 2],
    evictions: Counter,
}

/// How a request ended, in figures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) end: End,
    pub(crate) phase: Phase,
    pub(crate) seconds: f64,
    pub(crate) prompt_tokens: usize,
    pub(crate) generated_tokens: usize,
}

impl DecoderMetrics {
    pub(crate) fn new(model: &str) -> Self {
        let labelled =
            |metric, label, values| ByLabel::new(metric, &own_labels(model), label, values);
        let twin = |own, vllm| histograms(model, own, vllm);
        let block = |state| gauge(&table::KV_BLOCKS, with(own_labels(model), "state", state));
        Self {
            model: model.to_owned(),
            flow: Flow::new(model),
            running: gauges(model, &table::REQUESTS_RUNNING, &table::VLLM_RUNNING),
            waiting: gauges(model, &table::REQUESTS_WAITING, &table::VLLM_WAITING),
            blocks: ["free", "active", "cached"].map(block),
            kv_usage: gauge(&table::VLLM_KV_USAGE, vllm_labels(model)),
            finished: labelled(&table::REQUESTS_FINISHED, "reason", END_REASONS),
            success: ByLabel::new(
                &table::VLLM_SUCCESS,
                &vllm_labels(model),
                "finished_reason",
                VLLM_REASONS,
            ),
            cancellations: labelled(&table::CANCELLATIONS, "phase", PHASES),
            deadlines: labelled(&table::DEADLINE_EXCEEDED, "phase", PHASES),
            stalls: counter(&table::STALL_ABORTS, own_labels(model)),
            first_token: twin(
                &table::TIME_TO_FIRST_TOKEN,
                &table::VLLM_TIME_TO_FIRST_TOKEN,
            ),
            inter_token: twin(&table::INTER_TOKEN, &table::VLLM_INTER_TOKEN),
            e2e: twin(&table::E2E, &table::VLLM_E2E),
            queue: twin(&table::QUEUE_TIME, &table::VLLM_QUEUE_TIME),
            step_seconds: histogram(&table::STEP_SECONDS, own_labels(model)),
            step_tokens: twin(&table::STEP_TOKENS, &table::VLLM_ITERATION_TOKENS),
            prompt_length: twin(&table::REQUEST_PROMPT_TOKENS, &table::VLLM_PROMPT_LENGTH),
            generation_length: twin(
                &table::REQUEST_GENERATION_TOKENS,
                &table::VLLM_GENERATION_LENGTH,
            ),
        }
    }

    /// A new executor brought its cache. Not for the hot path.
    pub(crate) fn pool(&self, pool: Pool) {
        let mut labels = vllm_labels(&self.model);
        labels.push(Label::new("block_size", pool.block_tokens.to_string()));
        labels.push(Label::new("num_gpu_blocks", pool.blocks.to_string()));
        labels.push(Label::new("enable_prefix_caching", "True"));
        gauge(&table::VLLM_CACHE_CONFIG, labels).set(1.0);
    }

    pub(crate) fn started(&self, queue_seconds: f64, prompt_tokens: usize) {
        record(&self.queue, queue_seconds);
        add(&self.flow.prompt, prompt_tokens as u64);
    }

    pub(crate) fn first_token(&self, seconds: f64) {
        record(&self.first_token, seconds);
    }

    pub(crate) fn next_token(&self, seconds: f64) {
        record(&self.inter_token, seconds);
    }

    pub(crate) fn generated(&self, tokens: u64) {
        add(&self.flow.generation, tokens);
    }

    pub(crate) fn cancelled(&self, phase: Phase) {
        self.cancellations.add(phase_label(phase));
    }

    pub(crate) fn ended(&self, ended: Ended) {
        let (reason, vllm) = reason_labels(ended.end);
        self.finished.add(reason);
        self.success.add(vllm);
        match ended.end {
            End::Finish(Finish::Deadline) => self.deadlines.add(phase_label(ended.phase)),
            End::Stalled => self.stalls.increment(1),
            End::Finish(_) | End::EngineDown => {}
        }
        record(&self.e2e, ended.seconds);
        record(&self.prompt_length, ended.prompt_tokens as f64);
        record(&self.generation_length, ended.generated_tokens as f64);
    }

    pub(crate) fn step(&self, seconds: f64, tokens: usize) {
        self.step_seconds.record(seconds);
        record(&self.step_tokens, tokens as f64);
    }

    /// Once a step; `before` is what the last call was given for the same scheduler.
    pub(crate) fn stats(&self, before: &Stats, stats: &Stats) {
        set(&self.running, f64::from(stats.running));
        set(&self.waiting, f64::from(stats.waiting));
        let states = [stats.blocks_free, stats.blocks_active, stats.blocks_cached];
        for (gauge, blocks) in self.blocks.iter().zip(states) {
            gauge.set(f64::from(blocks));
        }
        let total = f64::from(stats.blocks_total.max(1));
        self.kv_usage.set(f64::from(stats.blocks_active) / total);
        let flow = &self.flow;
        add(
            &flow.queries,
            stats.prefix_queried_tokens - before.prefix_queried_tokens,
        );
        add(
            &flow.hits,
            stats.prefix_hit_tokens - before.prefix_hit_tokens,
        );
        add(&flow.preemptions, stats.preemptions - before.preemptions);
        flow.evictions.increment(stats.evictions - before.evictions);
    }
}

impl Flow {
    fn new(model: &str) -> Self {
        let twin = |own, vllm| {
            [
                counter(own, own_labels(model)),
                counter(vllm, vllm_labels(model)),
            ]
        };
        Self {
            prompt: twin(&table::PROMPT_TOKENS, &table::VLLM_PROMPT_TOKENS),
            generation: twin(&table::GENERATION_TOKENS, &table::VLLM_GENERATION_TOKENS),
            queries: twin(&table::PREFIX_QUERIES, &table::VLLM_PREFIX_QUERIES),
            hits: twin(&table::PREFIX_HITS, &table::VLLM_PREFIX_HITS),
            preemptions: twin(&table::PREEMPTIONS, &table::VLLM_PREEMPTIONS),
            evictions: counter(&table::EVICTIONS, own_labels(model)),
        }
    }
}

/// What an encoder's engine records.
#[derive(Debug)]
pub(crate) struct EncoderMetrics {
    pub(crate) waiting: Gauge,
    inputs: ByLabel,
    tokens: Counter,
    pub(crate) queue: Histogram,
    latency: Histogram,
    batch_seconds: Histogram,
    batch_inputs: [Histogram; 2],
    batch_tokens: [Histogram; 2],
}

/// How an input ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Encoded,
    Deadline,
    Abort,
    Failed,
}

impl EncoderMetrics {
    pub(crate) fn new(model: &str) -> Self {
        let own = |metric| histogram(metric, own_labels(model));
        Self {
            waiting: gauge(&table::ENCODE_WAITING, own_labels(model)),
            inputs: ByLabel::new(
                &table::ENCODE_INPUTS,
                &own_labels(model),
                "outcome",
                OUTCOMES,
            ),
            tokens: counter(&table::ENCODE_TOKENS, own_labels(model)),
            queue: own(&table::ENCODE_QUEUE_TIME),
            latency: own(&table::ENCODE_SECONDS),
            batch_seconds: own(&table::ENCODE_BATCH_SECONDS),
            batch_inputs: [&table::ENCODE_BATCH_INPUTS, &table::TEI_BATCH_INPUTS].map(own),
            batch_tokens: [&table::ENCODE_BATCH_TOKENS, &table::TEI_BATCH_TOKENS].map(own),
        }
    }

    pub(crate) fn ended(&self, outcome: Outcome, seconds: f64) {
        self.inputs.add(match outcome {
            Outcome::Encoded => "encoded",
            Outcome::Deadline => "deadline",
            Outcome::Abort => "abort",
            Outcome::Failed => "failed",
        });
        self.latency.record(seconds);
    }

    pub(crate) fn batch(&self, seconds: f64, inputs: usize, tokens: usize) {
        self.batch_seconds.record(seconds);
        record(&self.batch_inputs, inputs as f64);
        record(&self.batch_tokens, tokens as f64);
        self.tokens.increment(tokens as u64);
    }
}

// === closed label sets ===

const REJECT_REASONS: &[&str] = &[
    "queue_full",
    "queue_tokens_full",
    "share_full",
    "wait_too_long",
    "too_long",
    "exceeds_pool",
    "empty_prompt",
    "expired",
    "draining",
    "unavailable",
];
const END_REASONS: &[&str] = &[
    "stop",
    "length",
    "abort",
    "deadline",
    "fault",
    "stalled",
    "engine_down",
];
const VLLM_REASONS: &[&str] = &["stop", "length", "abort", "error"];
const PHASES: &[&str] = &["queue", "prefill", "decode"];
const CAUSES: &[&str] = &["error", "out_of_memory", "hang"];
const OUTCOMES: &[&str] = &["encoded", "deadline", "abort", "failed"];

fn phase_label(phase: Phase) -> &'static str {
    match phase {
        Phase::Queue => "queue",
        Phase::Prefill => "prefill",
        Phase::Decode => "decode",
    }
}

/// Our reason and vLLM's.
fn reason_labels(end: End) -> (&'static str, &'static str) {
    match end {
        End::Finish(Finish::Stop) => ("stop", "stop"),
        End::Finish(Finish::Length) => ("length", "length"),
        End::Finish(Finish::Abort) => ("abort", "abort"),
        End::Finish(Finish::Deadline) => ("deadline", "abort"),
        End::Finish(Finish::Fault) => ("fault", "error"),
        End::Stalled => ("stalled", "abort"),
        End::EngineDown => ("engine_down", "error"),
    }
}

/// One counter for each value of a label.
#[derive(Debug)]
struct ByLabel(Vec<(&'static str, Counter)>);

impl ByLabel {
    fn new(
        metric: &Metric,
        labels: &[Label],
        label: &'static str,
        values: &'static [&'static str],
    ) -> Self {
        let counter = |&value| (value, counter(metric, with(labels.to_vec(), label, value)));
        Self(values.iter().map(counter).collect())
    }

    fn add(&self, value: &str) {
        let found = self.0.iter().find(|(of, _)| *of == value);
        assert!(found.is_some(), "{value} is not in the label's closed set");
        if let Some((_, counter)) = found {
            counter.increment(1);
        }
    }
}

// === registration ===

fn own_labels(model: &str) -> Vec<Label> {
    vec![Label::new("model", model.to_owned())]
}

fn vllm_labels(model: &str) -> Vec<Label> {
    vec![
        Label::new("model_name", model.to_owned()),
        Label::new("engine", "0"),
    ]
}

fn with(mut labels: Vec<Label>, key: &'static str, value: &'static str) -> Vec<Label> {
    labels.push(Label::from_static_parts(key, value));
    labels
}

fn key(metric: &Metric, labels: Vec<Label>) -> Key {
    let same = labels
        .iter()
        .map(Label::key)
        .eq(metric.labels.iter().copied());
    assert!(same, "{} is registered with other labels", metric.name);
    Key::from_parts(KeyName::from_const_str(metric.name), labels)
}

const METADATA: Metadata<'static> = Metadata::new("engine", Level::INFO, None);

fn counter(metric: &Metric, labels: Vec<Label>) -> Counter {
    assert_eq!(metric.kind, Kind::Counter, "{}", metric.name);
    let key = key(metric, labels);
    metrics::with_recorder(|recorder| recorder.register_counter(&key, &METADATA))
}

fn gauge(metric: &Metric, labels: Vec<Label>) -> Gauge {
    assert_eq!(metric.kind, Kind::Gauge, "{}", metric.name);
    let key = key(metric, labels);
    metrics::with_recorder(|recorder| recorder.register_gauge(&key, &METADATA))
}

fn histogram(metric: &Metric, labels: Vec<Label>) -> Histogram {
    assert!(matches!(metric.kind, Kind::Histogram(_)), "{}", metric.name);
    let key = key(metric, labels);
    metrics::with_recorder(|recorder| recorder.register_histogram(&key, &METADATA))
}

fn gauges(model: &str, own: &Metric, vllm: &Metric) -> [Gauge; 2] {
    [
        gauge(own, own_labels(model)),
        gauge(vllm, vllm_labels(model)),
    ]
}

fn histograms(model: &str, own: &Metric, vllm: &Metric) -> [Histogram; 2] {
    [
        histogram(own, own_labels(model)),
        histogram(vllm, vllm_labels(model)),
    ]
}

fn add(counters: &[Counter; 2], count: u64) {
    if count > 0 {
        for counter in counters {
            counter.increment(count);
        }
    }
}

fn set(gauges: &[Gauge; 2], value: f64) {
    for gauge in gauges {
        gauge.set(value);
    }
}

fn record(histograms: &[Histogram; 2], value: f64) {
    for histogram in histograms {
        histogram.record(value);
    }
}

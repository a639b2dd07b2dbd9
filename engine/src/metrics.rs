//! Every metric of the engine: name, labels, help, buckets. `docs/metrics.md` follows this table.
//!
//! Own series start with `paternoster_`; the `vllm:` and `te_` ones repeat them under the names that
//! routers and dashboards already read. Labels come from closed sets; `model` and `model_name` are the
//! served name, `engine` is always "0".

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by these upper bounds.
    Histogram(&'static [f64]),
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// Its name on the scrape.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it says, in a sentence.
    pub help: &'static str,
}

/// Tells the installed recorder the help text of every metric.
pub fn describe() {
    for metric in METRICS {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            Kind::Histogram(_) => metrics::describe_histogram!(metric.name, metric.help),
        }
    }
}

/// Every metric of this crate.
pub const METRICS: &[Metric] = &[
    REQUESTS_RUNNING,
    REQUESTS_WAITING,
    KV_BLOCKS,
    PROMPT_TOKENS,
    GENERATION_TOKENS,
    PREFIX_QUERIES,
    PREFIX_HITS,
    PREEMPTIONS,
    EVICTIONS,
    ADMISSION_REJECTS,
    REQUESTS_FINISHED,
    CANCELLATIONS,
    DEADLINE_EXCEEDED,
    STALL_ABORTS,
    NAN_ROWS,
    RESTARTS,
    TIME_TO_FIRST_TOKEN,
    INTER_TOKEN,
    E2E,
    QUEUE_TIME,
    STEP_SECONDS,
    STEP_TOKENS,
    REQUEST_PROMPT_TOKENS,
    REQUEST_GENERATION_TOKENS,
    ENCODE_WAITING,
    ENCODE_INPUTS,
    ENCODE_TOKENS,
    ENCODE_QUEUE_TIME,
    ENCODE_SECONDS,
    ENCODE_BATCH_SECONDS,
    ENCODE_BATCH_INPUTS,
    ENCODE_BATCH_TOKENS,
    TEI_BATCH_INPUTS,
    TEI_BATCH_TOKENS,
    VLLM_RUNNING,
    VLLM_WAITING,
    VLLM_KV_USAGE,
    VLLM_CACHE_CONFIG,
    VLLM_PROMPT_TOKENS,
    VLLM_GENERATION_TOKENS,
    VLLM_PREFIX_QUERIES,
    VLLM_PREFIX_HITS,
    VLLM_PREEMPTIONS,
    VLLM_SUCCESS,
    VLLM_TIME_TO_FIRST_TOKEN,
    VLLM_INTER_TOKEN,
    VLLM_E2E,
    VLLM_QUEUE_TIME,
    VLLM_PROMPT_LENGTH,
    VLLM_GENERATION_LENGTH,
    VLLM_ITERATION_TOKENS,
];

/// The bucket table of every histogram, for the recorder's set-up.
pub const HISTOGRAMS: &[(&str, &[f64])] = &histograms();

// === the decoder's series ===

pub(crate) const REQUESTS_RUNNING: Metric = gauge(
    "paternoster_requests_running",
    MODEL,
    "Requests that hold KV blocks.",
);
pub(crate) const REQUESTS_WAITING: Metric = gauge(
    "paternoster_requests_waiting",
    MODEL,
    "Requests in the queue, preempted ones included.",
);
pub(crate) const KV_BLOCKS: Metric = gauge(
    "paternoster_kv_blocks",
    &["model", "state"],
    "KV blocks by state: free (empty), active (a sequence names it), cached (kept for its prefix).",
);
pub(crate) const PROMPT_TOKENS: Metric = counter(
    "paternoster_prompt_tokens_total",
    MODEL,
    "Prompt tokens of requests that were started, cached ones included.",
);
pub(crate) const GENERATION_TOKENS: Metric = counter(
    "paternoster_generation_tokens_total",
    MODEL,
    "Tokens generated.",
);
pub(crate) const PREFIX_QUERIES: Metric = counter(
    "paternoster_prefix_cache_queries_total",
    MODEL,
    "Prompt tokens looked up in the prefix cache.",
);
pub(crate) const PREFIX_HITS: Metric = counter(
    "paternoster_prefix_cache_hits_total",
    MODEL,
    "Prompt tokens found in the prefix cache.",
);
pub(crate) const PREEMPTIONS: Metric = counter(
    "paternoster_preemptions_total",
    MODEL,
    "Sequences that gave their KV blocks back and were queued again.",
);
pub(crate) const EVICTIONS: Metric = counter(
    "paternoster_evictions_total",
    MODEL,
    "Cached KV blocks given to another sequence.",
);
pub(crate) const ADMISSION_REJECTS: Metric = counter(
    "paternoster_admission_rejects_total",
    &["model", "reason"],
    "Requests and inputs refused: queue_full, queue_tokens_full, share_full, wait_too_long, too_long, \
     exceeds_pool, empty_prompt, expired, draining, unavailable.",
);
pub(crate) const REQUESTS_FINISHED: Metric = counter(
    "paternoster_requests_finished_total",
    &["model", "reason"],
    "Requests ended: stop, length, abort, deadline, fault, stalled, engine_down.",
);
pub(crate) const CANCELLATIONS: Metric = counter(
    "paternoster_client_cancellations_total",
    &["model", "phase"],
    "Requests whose caller went away, by phase: queue, prefill, decode.",
);
pub(crate) const DEADLINE_EXCEEDED: Metric = counter(
    "paternoster_deadline_exceeded_total",
    &["model", "phase"],
    "Requests whose deadline passed, by phase: queue, prefill, decode.",
);
pub(crate) const STALL_ABORTS: Metric = counter(
    "paternoster_stream_stall_aborts_total",
    MODEL,
    "Streams aborted because their reader left progress unread for too long.",
);
pub(crate) const NAN_ROWS: Metric = counter(
    "paternoster_nan_rows_total",
    MODEL,
    "Sampled rows and vectors that were not finite.",
);
pub(crate) const RESTARTS: Metric = counter(
    "paternoster_engine_restarts_total",
    &["model", "cause"],
    "Executors replaced, by cause: error, out_of_memory, hang.",
);
pub(crate) const TIME_TO_FIRST_TOKEN: Metric = histogram(
    "paternoster_time_to_first_token_seconds",
    MODEL,
    "From submission to the first token.",
    FIRST_TOKEN_BUCKETS,
);
pub(crate) const INTER_TOKEN: Metric = histogram(
    "paternoster_inter_token_latency_seconds",
    MODEL,
    "Between two tokens of one request.",
    INTER_TOKEN_FINE_BUCKETS,
);
pub(crate) const E2E: Metric = histogram(
    "paternoster_e2e_request_latency_seconds",
    MODEL,
    "From submission to the end, whatever the reason.",
    E2E_FINE_BUCKETS,
);
pub(crate) const QUEUE_TIME: Metric = histogram(
    "paternoster_request_queue_time_seconds",
    MODEL,
    "From submission to the first step.",
    FIRST_TOKEN_BUCKETS,
);
pub(crate) const STEP_SECONDS: Metric = histogram(
    "paternoster_step_seconds",
    MODEL,
    "From the launch of a step to its result.",
    INTER_TOKEN_FINE_BUCKETS,
);
pub(crate) const STEP_TOKENS: Metric = histogram(
    "paternoster_step_tokens",
    MODEL,
    "Positions computed in one step.",
    ITERATION_BUCKETS,
);
pub(crate) const REQUEST_PROMPT_TOKENS: Metric = histogram(
    "paternoster_request_prompt_tokens",
    MODEL,
    "Prompt tokens of finished requests.",
    TOKENS_BUCKETS,
);
pub(crate) const REQUEST_GENERATION_TOKENS: Metric = histogram(
    "paternoster_request_generation_tokens",
    MODEL,
    "Generated tokens of finished requests.",
    TOKENS_BUCKETS,
);

// === the encoder's series ===

pub(crate) const ENCODE_WAITING: Metric = gauge(
    "paternoster_encode_inputs_waiting",
    MODEL,
    "Inputs in the queue.",
);
pub(crate) const ENCODE_INPUTS: Metric = counter(
    "paternoster_encode_inputs_total",
    &["model", "outcome"],
    "Inputs ended: encoded, deadline, abort, failed.",
);
pub(crate) const ENCODE_TOKENS: Metric = counter(
    "paternoster_encode_tokens_total",
    MODEL,
    "Tokens of encoded inputs.",
);
pub(crate) const ENCODE_QUEUE_TIME: Metric = histogram(
    "paternoster_encode_queue_time_seconds",
    MODEL,
    "From submission to the batch.",
    FIRST_TOKEN_BUCKETS,
);
pub(crate) const ENCODE_SECONDS: Metric = histogram(
    "paternoster_encode_latency_seconds",
    MODEL,
    "From submission to the vector.",
    FIRST_TOKEN_BUCKETS,
);
pub(crate) const ENCODE_BATCH_SECONDS: Metric = histogram(
    "paternoster_encode_batch_seconds",
    MODEL,
    "The time of one batch.",
    INTER_TOKEN_FINE_BUCKETS,
);
pub(crate) const ENCODE_BATCH_INPUTS: Metric = histogram(
    "paternoster_encode_batch_inputs",
    MODEL,
    "Inputs in one batch.",
    ITERATION_BUCKETS,
);
pub(crate) const ENCODE_BATCH_TOKENS: Metric = histogram(
    "paternoster_encode_batch_tokens",
    MODEL,
    "Tokens in one batch.",
    ITERATION_BUCKETS,
);

// === the series under TEI's names ===

pub(crate) const TEI_BATCH_INPUTS: Metric = histogram(
    "te_batch_next_size",
    MODEL,
    "As paternoster_encode_batch_inputs, with TEI's buckets.",
    TEI_INPUTS_BUCKETS,
);
pub(crate) const TEI_BATCH_TOKENS: Metric = histogram(
    "te_batch_next_tokens",
    MODEL,
    "As paternoster_encode_batch_tokens, with TEI's buckets.",
    TEI_TOKENS_BUCKETS,
);

// === the series under vLLM's names ===

pub(crate) const VLLM_RUNNING: Metric = gauge(
    "vllm:num_requests_running",
    VLLM,
    "As paternoster_requests_running.",
);
pub(crate) const VLLM_WAITING: Metric = gauge(
    "vllm:num_requests_waiting",
    VLLM,
    "As paternoster_requests_waiting.",
);
pub(crate) const VLLM_KV_USAGE: Metric = gauge(
    "vllm:kv_cache_usage_perc",
    VLLM,
    "Active KV blocks as a share of all, 0 to 1.",
);
pub(crate) const VLLM_CACHE_CONFIG: Metric = gauge(
    "vllm:cache_config_info",
    &[
        "model_name",
        "engine",
        "block_size",
        "num_gpu_blocks",
        "enable_prefix_caching",
    ],
    "Always 1; the labels describe the KV cache.",
);
pub(crate) const VLLM_PROMPT_TOKENS: Metric = counter(
    "vllm:prompt_tokens_total",
    VLLM,
    "As paternoster_prompt_tokens_total.",
);
pub(crate) const VLLM_GENERATION_TOKENS: Metric = counter(
    "vllm:generation_tokens_total",
    VLLM,
    "As paternoster_generation_tokens_total.",
);
pub(crate) const VLLM_PREFIX_QUERIES: Metric = counter(
    "vllm:prefix_cache_queries_total",
    VLLM,
    "As paternoster_prefix_cache_queries_total.",
);
pub(crate) const VLLM_PREFIX_HITS: Metric = counter(
    "vllm:prefix_cache_hits_total",
    VLLM,
    "As paternoster_prefix_cache_hits_total.",
);
pub(crate) const VLLM_PREEMPTIONS: Metric = counter(
    "vllm:num_preemptions_total",
    VLLM,
    "As paternoster_preemptions_total.",
);
pub(crate) const VLLM_SUCCESS: Metric = counter(
    "vllm:request_success_total",
    &["model_name", "engine", "finished_reason"],
    "Requests ended, by vLLM's reasons: stop, length, abort, error.",
);
pub(crate) const VLLM_TIME_TO_FIRST_TOKEN: Metric = histogram(
    "vllm:time_to_first_token_seconds",
    VLLM,
    "As paternoster_time_to_first_token_seconds.",
    FIRST_TOKEN_BUCKETS,
);
pub(crate) const VLLM_INTER_TOKEN: Metric = histogram(
    "vllm:inter_token_latency_seconds",
    VLLM,
    "As paternoster_inter_token_latency_seconds, with vLLM's buckets.",
    INTER_TOKEN_BUCKETS,
);
pub(crate) const VLLM_E2E: Metric = histogram(
    "vllm:e2e_request_latency_seconds",
    VLLM,
    "As paternoster_e2e_request_latency_seconds, with vLLM's buckets.",
    E2E_BUCKETS,
);
pub(crate) const VLLM_QUEUE_TIME: Metric = histogram(
    "vllm:request_queue_time_seconds",
    VLLM,
    "As paternoster_request_queue_time_seconds, with vLLM's buckets.",
    E2E_BUCKETS,
);
pub(crate) const VLLM_PROMPT_LENGTH: Metric = histogram(
    "vllm:request_prompt_tokens",
    VLLM,
    "As paternoster_request_prompt_tokens.",
    TOKENS_BUCKETS,
);
pub(crate) const VLLM_GENERATION_LENGTH: Metric = histogram(
    "vllm:request_generation_tokens",
    VLLM,
    "As paternoster_request_generation_tokens.",
    TOKENS_BUCKETS,
);
pub(crate) const VLLM_ITERATION_TOKENS: Metric = histogram(
    "vllm:iteration_tokens_total",
    VLLM,
    "As paternoster_step_tokens; a histogram in spite of its name.",
    ITERATION_BUCKETS,
);

// === labels and buckets ===

const MODEL: &[&str] = &["model"];
const VLLM: &[&str] = &["model_name", "engine"];

/// vLLM's, so that dashboards compare.
const FIRST_TOKEN_BUCKETS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
/// vLLM's.
const INTER_TOKEN_BUCKETS: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
/// vLLM's start at 10 ms, above a whole step of a small model: ours start at 0.5 ms.
const INTER_TOKEN_FINE_BUCKETS: &[f64] = &[
    0.000_5, 0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5,
    1.0, 2.5, 5.0, 10.0, 40.0,
];
/// vLLM's.
const E2E_BUCKETS: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
/// vLLM's start at 300 ms: ours start at 5 ms.
const E2E_FINE_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0,
    30.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0,
];
const ITERATION_BUCKETS: &[f64] = &[
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
];
const TOKENS_BUCKETS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0,
    20_000.0, 50_000.0, 100_000.0,
];

/// TEI's: powers of two.
const TEI_INPUTS_BUCKETS: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0,
];
/// TEI's: powers of two.
const TEI_TOKENS_BUCKETS: &[f64] = &[
    1.0,
    2.0,
    4.0,
    8.0,
    16.0,
    32.0,
    64.0,
    128.0,
    256.0,
    512.0,
    1024.0,
    2048.0,
    4096.0,
    8192.0,
    16_384.0,
    32_768.0,
    65_536.0,
    131_072.0,
    262_144.0,
    524_288.0,
    1_048_576.0,
];

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric {
        name,
        kind: Kind::Counter,
        labels,
        help,
    }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric {
        name,
        kind: Kind::Gauge,
        labels,
        help,
    }
}

const fn histogram(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    buckets: &'static [f64],
) -> Metric {
    Metric {
        name,
        kind: Kind::Histogram(buckets),
        labels,
        help,
    }
}

const HISTOGRAM_COUNT: usize = {
    let (mut count, mut i) = (0, 0);
    while i < METRICS.len() {
        if let Kind::Histogram(_) = METRICS[i].kind {
            count += 1;
        }
        i += 1;
    }
    count
};

const fn histograms() -> [(&'static str, &'static [f64]); HISTOGRAM_COUNT] {
    let mut found: [(&str, &[f64]); HISTOGRAM_COUNT] = [("", &[]); HISTOGRAM_COUNT];
    let (mut count, mut i) = (0, 0);
    while i < METRICS.len() {
        if let Kind::Histogram(buckets) = METRICS[i].kind {
            found[count] = (METRICS[i].name, buckets);
            count += 1;
        }
        i += 1;
    }
    found
}

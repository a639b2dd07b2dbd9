//! The names of TGI and TEI that mean what is measured here, with their buckets.

use engine::metrics::{Kind, Metric};

pub(super) const MODEL: &[&str] = &["model"];
const FAILURE: &[&str] = &["model", "err"];
const METHOD: &[&str] = &["model", "method"];

pub(super) const TGI_COUNT: &str = "tgi_request_count";
pub(super) const TGI_SUCCESS: &str = "tgi_request_success";
pub(super) const TGI_FAILURE: &str = "tgi_request_failure";
pub(super) const TGI_DURATION: &str = "tgi_request_duration";
pub(super) const TGI_VALIDATION: &str = "tgi_request_validation_duration";
pub(super) const TGI_QUEUE: &str = "tgi_request_queue_duration";
pub(super) const TGI_INFERENCE: &str = "tgi_request_inference_duration";
pub(super) const TGI_PER_TOKEN: &str = "tgi_request_mean_time_per_token_duration";
pub(super) const TGI_INPUT: &str = "tgi_request_input_length";
pub(super) const TGI_MAX_NEW: &str = "tgi_request_max_new_tokens";
pub(super) const TGI_GENERATED: &str = "tgi_request_generated_tokens";
pub(super) const TGI_SKIPPED: &str = "tgi_request_skipped_tokens";
pub(super) const TGI_QUEUE_SIZE: &str = "tgi_queue_size";
pub(super) const TGI_BATCH_SIZE: &str = "tgi_batch_current_size";
pub(super) const TGI_BATCH_TOKENS: &str = "tgi_batch_current_max_tokens";
pub(super) const TGI_BATCH_TOKENS_MAX: &str = "tgi_batch_max_total_tokens";

pub(super) const TEI_COUNT: &str = "te_request_count";
pub(super) const TEI_SUCCESS: &str = "te_request_success";
pub(super) const TEI_FAILURE: &str = "te_request_failure";
pub(super) const TEI_DURATION: &str = "te_request_duration";
pub(super) const TEI_INPUT: &str = "te_request_input_length";
pub(super) const TEI_QUEUE_SIZE: &str = "te_queue_size";

/// The names of one kind of input: how many there were and went well, and where their time went.
pub(super) struct Inputs {
    pub(super) count: &'static str,
    pub(super) success: &'static str,
    pub(super) duration: &'static str,
    pub(super) tokenization: &'static str,
    pub(super) queue: &'static str,
    pub(super) inference: &'static str,
}

pub(super) const EMBED: Inputs = Inputs {
    count: "te_embed_count",
    success: "te_embed_success",
    duration: "te_embed_duration",
    tokenization: "te_embed_tokenization_duration",
    queue: "te_embed_queue_duration",
    inference: "te_embed_inference_duration",
};
pub(super) const PREDICT: Inputs = Inputs {
    count: "te_predict_count",
    success: "te_predict_success",
    duration: "te_predict_duration",
    tokenization: "te_predict_tokenization_duration",
    queue: "te_predict_queue_duration",
    inference: "te_predict_inference_duration",
};
/// Of inputs of both kinds; a request's own duration is [`TEI_DURATION`].
pub(super) const TEI_TOKENIZATION: &str = "te_request_tokenization_duration";
pub(super) const TEI_QUEUE: &str = "te_request_queue_duration";
pub(super) const TEI_INFERENCE: &str = "te_request_inference_duration";

/// TGI's: 35 from 0.15 ms, each half as much again.
const TGI_SECONDS: &[f64] = &geometric(0.000_1);
/// TEI's: a tenth of those.
const TEI_SECONDS: &[f64] = &geometric(0.000_01);
/// TGI has 100 equal steps up to the longest sequence.
const TOKENS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0,
    20_000.0, 50_000.0, 100_000.0,
];
/// TEI's, up to the longest input there is.
const INPUT_TOKENS: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0,
    16_384.0, 32_768.0,
];

/// TGI's values of the label `err`.
pub(super) const TGI_ERRORS: [&str; 6] = [
    "overloaded",
    "validation",
    "generation",
    "incomplete",
    "dropped",
    "template",
];
/// TEI's.
pub(super) const TEI_ERRORS: [&str; 7] = [
    "tokenization",
    "overloaded",
    "model_type",
    "validation",
    "inference",
    "batch_size",
    "dropped",
];
/// TEI's values of the label `method`.
pub(super) const TEI_METHODS: [&str; 2] = ["single", "batch"];

/// Every metric under these names.
pub const METRICS: &[Metric] = &[
    counted(
        TGI_COUNT,
        MODEL,
        "Calls of Generate and Complete that ended.",
    ),
    counted(TGI_SUCCESS, MODEL, "Those that ended well."),
    counted(
        TGI_FAILURE,
        FAILURE,
        "Those that did not, by TGI's words: overloaded, validation, generation, incomplete, dropped, template; model is empty where it was not known yet.",
    ),
    sampled(
        TGI_DURATION,
        TGI_SECONDS,
        "From the call's begin to its end, of those that ended well; so are the next four.",
    ),
    sampled(
        TGI_VALIDATION,
        TGI_SECONDS,
        "From the call's begin to its tokens.",
    ),
    sampled(TGI_QUEUE, TGI_SECONDS, "From its tokens to its first step."),
    sampled(
        TGI_INFERENCE,
        TGI_SECONDS,
        "From its first step to its end.",
    ),
    sampled(
        TGI_PER_TOKEN,
        TGI_SECONDS,
        "That by the tokens of one sequence.",
    ),
    sampled(TGI_INPUT, TOKENS, "Tokens of prompts."),
    sampled(
        TGI_MAX_NEW,
        TOKENS,
        "Tokens that calls may generate at most.",
    ),
    sampled(TGI_GENERATED, TOKENS, "Tokens that calls generated."),
    sampled(
        TGI_SKIPPED,
        TOKENS,
        "Prompt tokens found in the prefix cache; a summary in TGI, whose sum and count are the same.",
    ),
    measured(TGI_QUEUE_SIZE, "As paternoster_requests_waiting."),
    measured(TGI_BATCH_SIZE, "As paternoster_requests_running."),
    measured(
        TGI_BATCH_TOKENS,
        "Tokens that the active KV blocks hold; TGI reserves them ahead.",
    ),
    measured(TGI_BATCH_TOKENS_MAX, "Tokens that all KV blocks hold."),
    counted(
        TEI_COUNT,
        METHOD,
        "Calls that embed, classify or rerank, and requests of streams, that ended: single (one input), batch.",
    ),
    counted(TEI_SUCCESS, METHOD, "Those that ended well."),
    counted(
        TEI_FAILURE,
        FAILURE,
        "Those that did not, by TEI's words: tokenization, overloaded, model_type, validation, inference, batch_size, dropped; model is empty where it was not known yet.",
    ),
    sampled(
        TEI_DURATION,
        TEI_SECONDS,
        "From the call's begin to its end, of those that ended well.",
    ),
    sampled(
        TEI_TOKENIZATION,
        TEI_SECONDS,
        "Of one input: turning it into tokens; TEI gives a batch's mean.",
    ),
    sampled(
        TEI_QUEUE,
        TEI_SECONDS,
        "Of one input: the wait for its batch.",
    ),
    sampled(TEI_INFERENCE, TEI_SECONDS, "Of one input: its batch."),
    sampled(TEI_INPUT, INPUT_TOKENS, "Tokens of inputs."),
    measured(
        TEI_QUEUE_SIZE,
        "Inputs in the queue, those that are about to enter it included.",
    ),
    counted(EMBED.count, MODEL, "Inputs to embed."),
    counted(EMBED.success, MODEL, "Those that were embedded."),
    sampled(EMBED.duration, TEI_SECONDS, "Of one input: all of it."),
    sampled(EMBED.tokenization, TEI_SECONDS, "Turning it into tokens."),
    sampled(EMBED.queue, TEI_SECONDS, "The wait for its batch."),
    sampled(EMBED.inference, TEI_SECONDS, "Its batch."),
    counted(PREDICT.count, MODEL, "Inputs to score."),
    counted(PREDICT.success, MODEL, "Those that were scored."),
    sampled(PREDICT.duration, TEI_SECONDS, "Of one input: all of it."),
    sampled(PREDICT.tokenization, TEI_SECONDS, "Turning it into tokens."),
    sampled(PREDICT.queue, TEI_SECONDS, "The wait for its batch."),
    sampled(PREDICT.inference, TEI_SECONDS, "Its batch."),
];

const fn counted(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    let kind = Kind::Counter;
    Metric {
        name,
        kind,
        labels,
        help,
    }
}

const fn measured(name: &'static str, help: &'static str) -> Metric {
    let (kind, labels) = (Kind::Gauge, MODEL);
    Metric {
        name,
        kind,
        labels,
        help,
    }
}

const fn sampled(name: &'static str, buckets: &'static [f64], help: &'static str) -> Metric {
    let (kind, labels) = (Kind::Histogram(buckets), MODEL);
    Metric {
        name,
        kind,
        labels,
        help,
    }
}

const fn geometric(first: f64) -> [f64; 35] {
    let (mut bounds, mut bound, mut i) = ([0.0; 35], first, 0);
    while i < bounds.len() {
        bound *= 1.5;
        bounds[i] = bound;
        i += 1;
    }
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_those_of_tgi_and_tei() {
        let close = |value: f64, expected: f64| (value / expected - 1.0).abs() < 1e-3;
        assert!(close(TGI_SECONDS[0], 0.000_15) && close(TGI_SECONDS[34], 145.6));
        assert!(close(TEI_SECONDS[0], 0.000_015) && close(TEI_SECONDS[34], 14.56));
    }
}

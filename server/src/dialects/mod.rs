//! What is counted, once more under the names that TGI and TEI give it, for their dashboards and
//! autoscalers: `--metrics-compat tgi,tei`. A name stands here only where its meaning is the same;
//! the batches that engines make for TEI's names stand in `engine::metrics`, and what vLLM calls its
//! own there and in [`crate::metrics`].

mod names;

use std::time::Duration;

use engine::executor::Output;
use engine::metrics::{Kind, Metric};
use metrics::{counter, gauge, histogram};
use tonic::Code;

use crate::app::App;
use crate::grpc::encoding::Times;
use crate::journal::Record;
use crate::method::Method;
use crate::registry::{Registry, Served};
use crate::status::Ending;
use names::{
    EMBED, Inputs, MODEL, PREDICT, TEI_COUNT, TEI_DURATION, TEI_ERRORS, TEI_FAILURE, TEI_INFERENCE,
    TEI_INPUT, TEI_METHODS, TEI_QUEUE, TEI_QUEUE_SIZE, TEI_SUCCESS, TEI_TOKENIZATION,
    TGI_BATCH_SIZE, TGI_BATCH_TOKENS, TGI_BATCH_TOKENS_MAX, TGI_COUNT, TGI_DURATION, TGI_ERRORS,
    TGI_FAILURE, TGI_GENERATED, TGI_INFERENCE, TGI_INPUT, TGI_MAX_NEW, TGI_PER_TOKEN, TGI_QUEUE,
    TGI_QUEUE_SIZE, TGI_SKIPPED, TGI_SUCCESS, TGI_VALIDATION,
};

pub use names::METRICS;

/// Who has names for a method's calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Tgi,
    Tei,
}

/// Of streams each request counts, not the call: see [`answered`].
fn dialect(method: Method) -> Option<Dialect> {
    Some(match method.label() {
        "Generate" | "Complete" => Dialect::Tgi,
        "Embed" | "Rerank" | "Classify" | "tei.Embed" | "tei.EmbedSparse" | "tei.EmbedAll"
        | "tei.Predict" | "tei.PredictPair" | "tei.Rerank" | "tei.RerankStream" => Dialect::Tei,
        _ => return None,
    })
}

/// A call has ended, after this time.
pub(crate) fn ended(method: Method, ending: Ending, record: &Record, total: Duration) {
    match dialect(method) {
        Some(Dialect::Tgi) => generated(ending, record, total),
        Some(Dialect::Tei) => {
            let name = TEI_METHODS[usize::from(record.n.is_some_and(|n| n > 1))];
            request(&record.model, name, ending);
            if ending == Ending::OK {
                sample(TEI_DURATION, &record.model, total.as_secs_f64());
            }
        }
        None => {}
    }
}

/// A request of a stream that embeds or scores was answered.
pub(crate) fn answered(method: &str, model: &str, ending: Ending) {
    let tokenizes = ["tei.TokenizeStream", "tei.DecodeStream"].contains(&method);
    if !tokenizes {
        request(model, TEI_METHODS[0], ending);
    }
}

/// A generation may have this many tokens at most.
pub(crate) fn asked(model: &str, tokens_max: u32) {
    sample(TGI_MAX_NEW, model, f64::from(tokens_max));
}

/// An input begins its way through an encoder.
pub(crate) fn begun(model: &str, output: Output) {
    count(inputs(output).count, model);
}

/// It has come out of it.
pub(crate) fn encoded(model: &str, output: Output, tokens: u32, times: Times) {
    let inputs = inputs(output);
    count(inputs.success, model);
    sample(TEI_INPUT, model, f64::from(tokens));
    let all = times.tokenized + times.queued + times.computed;
    for (name, time) in [
        (inputs.duration, all),
        (inputs.tokenization, times.tokenized),
        (inputs.queue, times.queued),
        (inputs.inference, times.computed),
        (TEI_TOKENIZATION, times.tokenized),
        (TEI_QUEUE, times.queued),
        (TEI_INFERENCE, times.computed),
    ] {
        sample(name, model, time.as_secs_f64());
    }
}

/// Measures what is measured when somebody looks.
pub(crate) fn look(app: &App) {
    for model in app.registry.models() {
        let measure = |name: &'static str, value: f64| {
            gauge!(name, "model" => model.name().to_owned()).set(value);
        };
        match model {
            Served::Decoder(decoder) => {
                let stats = decoder.handle.stats();
                let tokens = f64::from(decoder.facts.kv_block_tokens);
                measure(TGI_QUEUE_SIZE, f64::from(stats.waiting));
                measure(TGI_BATCH_SIZE, f64::from(stats.running));
                measure(TGI_BATCH_TOKENS, f64::from(stats.blocks_active) * tokens);
                measure(TGI_BATCH_TOKENS_MAX, f64::from(stats.blocks_total) * tokens);
            }
            Served::Encoder(encoder) => {
                measure(TEI_QUEUE_SIZE, f64::from(encoder.handle.waiting()));
            }
        }
    }
}

/// Begins the series of these models, and those of no model.
pub(crate) fn begin(registry: &Registry) {
    counter!(TGI_COUNT, "model" => "").absolute(0);
    begin_failures(TGI_FAILURE, &TGI_ERRORS, "");
    begin_requests(TEI_COUNT, "");
    begin_failures(TEI_FAILURE, &TEI_ERRORS, "");
    for model in registry.models() {
        let name = model.name();
        let dialect = match model {
            Served::Decoder(_) => {
                begin_failures(TGI_FAILURE, &TGI_ERRORS, name);
                "tgi_"
            }
            Served::Encoder(_) => {
                begin_failures(TEI_FAILURE, &TEI_ERRORS, name);
                begin_requests(TEI_COUNT, name);
                begin_requests(TEI_SUCCESS, name);
                "te_"
            }
        };
        let of_model =
            |metric: &&Metric| metric.labels == MODEL && metric.name.starts_with(dialect);
        for metric in METRICS.iter().filter(of_model) {
            let model = name.to_owned();
            match metric.kind {
                Kind::Counter => counter!(metric.name, "model" => model).absolute(0),
                Kind::Gauge => gauge!(metric.name, "model" => model).increment(0.0),
                Kind::Histogram(_) => drop(histogram!(metric.name, "model" => model)),
            }
        }
    }
}

fn begin_requests(name: &'static str, model: &str) {
    for method in TEI_METHODS {
        counter!(name, "model" => model.to_owned(), "method" => method).absolute(0);
    }
}

fn begin_failures(name: &'static str, errors: &[&'static str], model: &str) {
    for error in errors {
        counter!(name, "model" => model.to_owned(), "err" => *error).absolute(0);
    }
}

fn generated(ending: Ending, record: &Record, total: Duration) {
    let model = record.model.as_str();
    count(TGI_COUNT, model);
    if record.n.is_some() {
        sample(TGI_INPUT, model, record.prompt_tokens as f64);
    }
    if ending != Ending::OK {
        let error = tgi_error(ending);
        counter!(TGI_FAILURE, "model" => model.to_owned(), "err" => error).increment(1);
        return;
    }
    count(TGI_SUCCESS, model);
    sample(TGI_GENERATED, model, record.generated_tokens as f64);
    sample(TGI_SKIPPED, model, record.cached_tokens as f64);
    let validated = record.validated.unwrap_or_default();
    let started = record.queued.unwrap_or(validated);
    let inference = total.saturating_sub(started);
    for (name, time) in [
        (TGI_DURATION, total),
        (TGI_VALIDATION, validated),
        (TGI_QUEUE, started.saturating_sub(validated)),
        (TGI_INFERENCE, inference),
    ] {
        sample(name, model, time.as_secs_f64());
    }
    if record.generated_tokens > 0 {
        let sequences = f64::from(record.n.unwrap_or(1));
        let per_token = inference.as_secs_f64() * sequences / record.generated_tokens as f64;
        sample(TGI_PER_TOKEN, model, per_token);
    }
}

fn request(model: &str, method: &'static str, ending: Ending) {
    counter!(TEI_COUNT, "model" => model.to_owned(), "method" => method).increment(1);
    if ending == Ending::OK {
        counter!(TEI_SUCCESS, "model" => model.to_owned(), "method" => method).increment(1);
    } else {
        let error = tei_error(ending);
        counter!(TEI_FAILURE, "model" => model.to_owned(), "err" => error).increment(1);
    }
}

/// TGI's word for a bad end.
fn tgi_error(ending: Ending) -> &'static str {
    match (ending.reason, ending.code) {
        (Some("CHAT_TEMPLATE" | "TEMPLATE_LIMIT"), _) => "template",
        (Some("CONSUMER_TOO_SLOW"), _) | (_, Code::Cancelled) => "dropped",
        (_, Code::ResourceExhausted) => "overloaded",
        (_, Code::Unavailable | Code::DeadlineExceeded) => "incomplete",
        (_, Code::Internal | Code::Unknown | Code::DataLoss) => "generation",
        _ => "validation",
    }
}

/// TEI's word for a bad end.
fn tei_error(ending: Ending) -> &'static str {
    match (ending.reason, ending.code) {
        (Some("TOKENIZE_FAILED"), _) => "tokenization",
        (Some("TOO_MANY_INPUTS"), _) => "batch_size",
        (Some("CONSUMER_TOO_SLOW"), _) | (_, Code::Cancelled) => "dropped",
        (_, Code::ResourceExhausted) => "overloaded",
        (_, Code::FailedPrecondition | Code::NotFound) => "model_type",
        (
            _,
            Code::InvalidArgument
            | Code::Unimplemented
            | Code::Unauthenticated
            | Code::PermissionDenied,
        ) => "validation",
        _ => "inference",
    }
}

fn inputs(output: Output) -> &'static Inputs {
    match output {
        Output::Scores => &PREDICT,
        Output::Pooled(_) | Output::Tokens | Output::Sparse => &EMBED,
    }
}

fn count(name: &'static str, model: &str) {
    counter!(name, "model" => model.to_owned()).increment(1);
}

fn sample(name: &'static str, model: &str, value: f64) {
    histogram!(name, "model" => model.to_owned()).record(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_end_has_a_word_of_the_closed_set() {
        for code in (0..=16).map(Code::from_i32) {
            let reasons = crate::status::REASONS.map(Some).into_iter().chain([None]);
            for reason in reasons {
                let ending = Ending { code, reason };
                assert!(TGI_ERRORS.contains(&tgi_error(ending)), "{ending:?}");
                assert!(TEI_ERRORS.contains(&tei_error(ending)), "{ending:?}");
            }
        }
        for (name, errors) in [(TGI_FAILURE, &TGI_ERRORS[..]), (TEI_FAILURE, &TEI_ERRORS)] {
            let failure = METRICS.iter().find(|metric| metric.name == name).unwrap();
            assert!(errors.iter().all(|error| failure.help.contains(error)));
        }
    }

    #[test]
    fn calls_that_only_tokenize_are_nobodys() {
        for method in Method::all() {
            let label = method.label();
            let expected = match label {
                "Generate" | "Complete" => Some(Dialect::Tgi),
                "tei.RerankStream" => Some(Dialect::Tei),
                _ if label.ends_with("Stream") => None,
                _ if ["Embed", "Predict", "Rerank", "Classify"]
                    .iter()
                    .any(|word| label.contains(word)) =>
                {
                    Some(Dialect::Tei)
                }
                _ => None,
            };
            assert_eq!(dialect(method), expected, "{label}");
        }
    }
}

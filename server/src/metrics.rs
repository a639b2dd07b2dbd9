//! The Prometheus recorder and the series of the edge. Labels come from closed sets only.

use std::sync::OnceLock;
use std::time::Duration;

use engine::metrics::{HISTOGRAMS, Kind, Metric};
use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit, counter,
    gauge, histogram,
};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use crate::args::observability::MetricsCompat;
use crate::dialects;

/// Calls by method and code.
pub(crate) const REQUESTS: &str = "paternoster_requests_total";
/// Calls that failed, by method and reason.
pub(crate) const CALL_ERRORS: &str = "paternoster_call_errors_total";
/// Requests of streams that were answered, by method and code.
pub(crate) const STREAM_MESSAGES: &str = "paternoster_stream_messages_total";
/// The time of turning text into tokens.
pub(crate) const TOKENIZE_SECONDS: &str = "paternoster_tokenize_seconds";
/// What generations ask for, under vLLM's names.
const VLLM_CACHED: &str = "vllm:prompt_tokens_cached_total";
const VLLM_PARAMS_N: &str = "vllm:request_params_n";
const VLLM_PARAMS_MAX_TOKENS: &str = "vllm:request_params_max_tokens";
/// Calls that run.
pub(crate) const CALLS: &str = "paternoster_calls_in_flight";
/// Connections by state.
pub(crate) const CONNECTIONS: &str = "paternoster_connections";
/// Connections refused or closed by the edge, by reason.
pub(crate) const CONNECTIONS_CLOSED: &str = "paternoster_connections_closed_total";
/// When certificates end.
pub(crate) const TLS_EXPIRY: &str = "paternoster_tls_certificate_expiry_timestamp_seconds";
/// Files read again, by what they are and the outcome.
pub(crate) const RELOADS: &str = "paternoster_reloads_total";
/// Tokens by tenant and kind.
pub(crate) const TENANT_TOKENS: &str = "paternoster_tenant_tokens_total";
/// Requests refused for a quota.
pub(crate) const TENANT_REFUSALS: &str = "paternoster_tenant_refusals_total";
/// Spans by what became of them.
pub(crate) const SPANS: &str = "paternoster_spans_total";
/// Lines of the log that were held back.
pub(crate) const LINES_HELD_BACK: &str = "paternoster_log_lines_held_back_total";
/// Lines of the log that were lost.
pub(crate) const LINES_LOST: &str = "paternoster_log_lines_lost_total";
/// Panics caught.
pub(crate) const PANICS: &str = "paternoster_panics_total";
/// Always 1.
const BUILD_INFO: &str = "paternoster_build_info";
/// Always 1, one for each model.
const MODEL_INFO: &str = "paternoster_model_info";

/// Every metric of this crate; those of the engines stand in `engine::metrics::METRICS`.
pub const METRICS: &[Metric] = &[
    Metric {
        name: REQUESTS,
        kind: Kind::Counter,
        labels: &["method", "code"],
        help: "Calls that ended, by method and status code; a method that does not exist is other.",
    },
    Metric {
        name: CALL_ERRORS,
        kind: Kind::Counter,
        labels: &["method", "reason"],
        help: "Calls that did not end well, by the reason in their error's details; the status code \
               where there is none.",
    },
    Metric {
        name: STREAM_MESSAGES,
        kind: Kind::Counter,
        labels: &["method", "code"],
        help: "Requests of client streams that were answered, by method and status code; their call is one \
               of paternoster_requests_total.",
    },
    Metric {
        name: TOKENIZE_SECONDS,
        kind: Kind::Histogram(TOKENIZE_BUCKETS),
        labels: &["model"],
        help: "From a text to its tokens, the wait for a thread included.",
    },
    Metric {
        name: CALLS,
        kind: Kind::Gauge,
        labels: &["method"],
        help: "Calls that run now.",
    },
    Metric {
        name: CONNECTIONS,
        kind: Kind::Gauge,
        labels: &[],
        help: "Connections that are open.",
    },
    Metric {
        name: CONNECTIONS_CLOSED,
        kind: Kind::Counter,
        labels: &["reason"],
        help: "Connections that the server closed or told to leave: over_limit, over_address_limit, \
               silent, handshake, idle, aged, stalled.",
    },
    Metric {
        name: TLS_EXPIRY,
        kind: Kind::Gauge,
        labels: &["certificate"],
        help: "When the first certificate of --tls-cert (server) or --tls-client-ca (client_ca) ends, in \
               seconds since 1970.",
    },
    Metric {
        name: RELOADS,
        kind: Kind::Counter,
        labels: &["what", "outcome"],
        help: "Certificates (tls) and keys read again, by outcome: ok, failed.",
    },
    Metric {
        name: TENANT_TOKENS,
        kind: Kind::Counter,
        labels: &["tenant", "kind"],
        help: "Tokens that tenants of the API keys used, by kind: prompt, generated; tenants beyond the \
               64th are other.",
    },
    Metric {
        name: TENANT_REFUSALS,
        kind: Kind::Counter,
        labels: &["tenant", "quota"],
        help: "Requests refused for a quota: tokens_per_minute, requests_per_minute, concurrent.",
    },
    Metric {
        name: PANICS,
        kind: Kind::Counter,
        labels: &[],
        help: "Panics caught; each cost its own call only.",
    },
    Metric {
        name: LINES_HELD_BACK,
        kind: Kind::Counter,
        labels: &["lines"],
        help: "Lines of the log that were too many of one kind in a second, by what they are: calls (that \
               ended well), failures (calls that did not), other.",
    },
    Metric {
        name: LINES_LOST,
        kind: Kind::Counter,
        labels: &[],
        help: "Lines of the log that were lost because whatever reads it is too slow.",
    },
    Metric {
        name: SPANS,
        kind: Kind::Counter,
        labels: &["result"],
        help: "Spans of calls: sent to the collector, failed to be, or dropped because too many \
               waited; only with --otlp-endpoint.",
    },
    Metric {
        name: BUILD_INFO,
        kind: Kind::Gauge,
        labels: &["version"],
        help: "The version of the server; always 1.",
    },
    Metric {
        name: MODEL_INFO,
        kind: Kind::Gauge,
        labels: &["model", "architecture", "dtype"],
        help: "A model served; always 1.",
    },
    Metric {
        name: VLLM_CACHED,
        kind: Kind::Counter,
        labels: VLLM,
        help: "Prompt tokens found in the prefix cache, of sequences that were started.",
    },
    Metric {
        name: VLLM_PARAMS_N,
        kind: Kind::Histogram(&[1.0, 2.0, 5.0, 10.0, 20.0]),
        labels: VLLM,
        help: "Sequences that generations ask for.",
    },
    Metric {
        name: VLLM_PARAMS_MAX_TOKENS,
        kind: Kind::Histogram(TOKENS_BUCKETS),
        labels: VLLM,
        help: "Tokens that generations may have at most, asked for or by the context.",
    },
];

const VLLM: &[&str] = &["model_name", "engine"];
/// vLLM's.
const TOKENS_BUCKETS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0,
    20_000.0, 50_000.0, 100_000.0,
];

/// Most texts take microseconds, a hostile megabyte takes seconds.
const TOKENIZE_BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0,
];

/// Between two rounds that move samples into their histograms.
pub(crate) const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Installs the recorder of this process, with the names of these others; later calls give the same
/// one. `None` if another recorder was installed before. Engines make their handles at their start, so call it before.
pub fn install(chosen: &[MetricsCompat]) -> Option<PrometheusHandle> {
    static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    RECORDER
        .get_or_init(|| {
            let mut builder = PrometheusBuilder::new();
            let own = METRICS.iter().chain(dialects::METRICS);
            let own = own.filter_map(|metric| match metric.kind {
                Kind::Histogram(buckets) => Some((metric.name, buckets)),
                Kind::Counter | Kind::Gauge => None,
            });
            for (name, buckets) in HISTOGRAMS.iter().copied().chain(own) {
                let matcher = Matcher::Full(name.to_owned());
                builder = builder.set_buckets_for_metric(matcher, buckets).ok()?;
            }
            let recorder = builder.build_recorder();
            let handle = recorder.handle();
            let dialects = chosen.to_owned();
            metrics::set_global_recorder(Chosen { recorder, dialects }).ok()?;
            engine::metrics::describe();
            describe();
            Some(handle)
        })
        .clone()
}

fn describe() {
    for metric in METRICS.iter().chain(dialects::METRICS) {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            Kind::Histogram(_) => metrics::describe_histogram!(metric.name, metric.help),
        }
    }
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// A request of a stream was answered.
pub(crate) fn stream_message(method: &'static str, code: &'static str) {
    counter!(STREAM_MESSAGES, "method" => method, "code" => code).increment(1);
}

/// A text became tokens, or was refused, in this time.
pub(crate) fn tokenized(model: &str, time: Duration) {
    histogram!(TOKENIZE_SECONDS, "model" => model.to_owned()).record(time.as_secs_f64());
}

/// A generation asks for `n` sequences of at most `tokens_max` tokens.
pub(crate) fn asked(model: &str, n: u32, tokens_max: u32) {
    for (name, value) in [(VLLM_PARAMS_N, n), (VLLM_PARAMS_MAX_TOKENS, tokens_max)] {
        let model = model.to_owned();
        histogram!(name, "model_name" => model, "engine" => "0").record(f64::from(value));
    }
    dialects::asked(model, tokens_max);
}

/// Begins the series of a decoder's generations.
pub(crate) fn begin_generations(model: &str) {
    for name in [VLLM_PARAMS_N, VLLM_PARAMS_MAX_TOKENS] {
        let _begun = histogram!(name, "model_name" => model.to_owned(), "engine" => "0");
    }
    cached(model, 0);
}

/// A sequence was started and found these tokens of its prompt in the prefix cache.
pub(crate) fn cached(model: &str, tokens: u32) {
    let model = model.to_owned();
    counter!(VLLM_CACHED, "model_name" => model, "engine" => "0").increment(tokens.into());
}

/// Says that a model is served.
pub(crate) fn model(name: &str, facts: &crate::registry::Facts) {
    gauge!(
        MODEL_INFO,
        "model" => name.to_owned(),
        "architecture" => facts.architecture.clone(),
        "dtype" => facts.dtype.clone(),
    )
    .set(1.0);
}

/// Records our own names and those of the chosen dialects: the handles of others do nothing at all.
struct Chosen {
    recorder: PrometheusRecorder,
    dialects: Vec<MetricsCompat>,
}

impl Chosen {
    fn takes(&self, name: &str) -> bool {
        let dialect = [
            ("vllm:", MetricsCompat::Vllm),
            ("tgi_", MetricsCompat::Tgi),
            ("te_", MetricsCompat::Tei),
        ]
        .into_iter()
        .find(|(prefix, _)| name.starts_with(prefix));
        dialect.is_none_or(|(_, dialect)| self.dialects.contains(&dialect))
    }
}

impl Recorder for Chosen {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, help: SharedString) {
        if self.takes(key.as_str()) {
            self.recorder.describe_counter(key, unit, help);
        }
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, help: SharedString) {
        if self.takes(key.as_str()) {
            self.recorder.describe_gauge(key, unit, help);
        }
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, help: SharedString) {
        if self.takes(key.as_str()) {
            self.recorder.describe_histogram(key, unit, help);
        }
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        if !self.takes(key.name()) {
            return Counter::noop();
        }
        self.recorder.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        if !self.takes(key.name()) {
            return Gauge::noop();
        }
        self.recorder.register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        if !self.takes(key.name()) {
            return Histogram::noop();
        }
        self.recorder.register_histogram(key, metadata)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_names_that_were_asked_for_are_recorded() {
        let all = [MetricsCompat::Vllm, MetricsCompat::Tgi, MetricsCompat::Tei];
        let asked = [&[][..], &all[..1], &all[1..2], &all[2..], &all[..]];
        for dialects in asked.map(<[MetricsCompat]>::to_vec) {
            let recorder = Chosen {
                recorder: PrometheusBuilder::new().build_recorder(),
                dialects: dialects.clone(),
            };
            let handle = recorder.recorder.handle();
            metrics::with_local_recorder(&recorder, || {
                engine::metrics::describe();
                describe();
                for name in ["vllm:a", "tgi_a", "te_a", "paternoster_a", "tell"] {
                    counter!(format!("{name}_total")).increment(1);
                    gauge!(format!("{name}_now")).set(1.0);
                    histogram!(format!("{name}_seconds")).record(1.0);
                }
            });
            let page = handle.render();
            let names = ["vllm:a", "tgi_a", "te_a"].into_iter().zip(all);
            let foreign = names.map(|(name, dialect)| (name, dialects.contains(&dialect)));
            for (name, expected) in foreign.chain([("paternoster_a", true), ("tell", true)]) {
                for kind in ["total", "now", "seconds"] {
                    let there = page.contains(&format!("\n{name}_{kind}"));
                    assert_eq!(there, expected, "{name}_{kind} of {dialects:?}\n{page}");
                }
            }
        }
    }
}

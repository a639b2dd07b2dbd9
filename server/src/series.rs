//! The series that are there from the start, at 0: all whose labels are known then. A rate over a
//! series that begins with its first event does not see that event, and so no alert would.
//!
//! What only a client's own mistakes bring about (a code as INVALID_ARGUMENT, a reason as EMPTY_INPUT)
//! begins with the first of them.

use metrics::{counter, gauge, histogram};
use tonic::Code;

use crate::method::{Arrival, Method, Role};
use crate::metrics::{
    CALL_ERRORS, CALLS, CONNECTIONS, CONNECTIONS_CLOSED, LINES_HELD_BACK, LINES_LOST, PANICS,
    REQUESTS, STREAM_MESSAGES, TOKENIZE_SECONDS,
};
use crate::registry::{Registry, Served};
use crate::status::code_name;
use crate::transport::Closing;
use crate::{dialects, metrics as own, throttle};

/// A good end, and the codes that tell of the server, its load or the network.
const CODES: [Code; 8] = [
    Code::Ok,
    Code::Cancelled,
    Code::Unknown,
    Code::DeadlineExceeded,
    Code::ResourceExhausted,
    Code::Internal,
    Code::Unavailable,
    Code::DataLoss,
];

/// The reasons that do.
const REASONS: [&str; 12] = [
    "CANCELLED",
    "CONSUMER_TOO_SLOW",
    "DEADLINE_EXCEEDED",
    "DRAINING",
    "ENCODER_FAILED",
    "ENGINE_DOWN",
    "INTERNAL",
    "MESSAGE_OVERDUE",
    "NUMERICAL_ERROR",
    "PANIC",
    QUEUE_FULL,
    "QUOTA_EXCEEDED",
];
const QUEUE_FULL: &str = "QUEUE_FULL";

/// Begins them for a server of these models. The engines have begun theirs when they were made.
pub(crate) fn begin(registry: &Registry) {
    counter!(PANICS).absolute(0);
    counter!(LINES_LOST).absolute(0);
    for lines in throttle::LABELS {
        counter!(LINES_HELD_BACK, "lines" => lines).absolute(0);
    }
    gauge!(CONNECTIONS).increment(0.0);
    for closing in Closing::ALL {
        counter!(CONNECTIONS_CLOSED, "reason" => closing.label()).absolute(0);
    }
    for method in Method::all() {
        begin_method(method);
    }
    for model in registry.models() {
        begin_model(model);
    }
    dialects::begin(registry);
}

fn begin_method(method: Method) {
    let label = method.label();
    gauge!(CALLS, "method" => label).increment(0.0);
    let streams = method.role() == Role::Work && method.arrival() == Arrival::Stream;
    for code in CODES.map(code_name) {
        counter!(REQUESTS, "method" => label, "code" => code).absolute(0);
        if streams {
            counter!(STREAM_MESSAGES, "method" => label, "code" => code).absolute(0);
        }
    }
    for &reason in reasons(method) {
        counter!(CALL_ERRORS, "method" => label, "reason" => reason).absolute(0);
    }
}

fn reasons(method: Method) -> &'static [&'static str] {
    match (method.role(), method.label()) {
        (Role::Work, _) => &REASONS,
        (Role::Control, "GetTokenizer") => &[QUEUE_FULL],
        (Role::Control, _) => &[],
    }
}

fn begin_model(model: &Served) {
    own::model(model.name(), model.facts());
    let _begun = histogram!(TOKENIZE_SECONDS, "model" => model.name().to_owned());
    if let Served::Decoder(decoder) = model {
        own::begin_generations(&decoder.name);
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::status;

    #[test]
    fn reasons_are_those_of_errors() {
        for reason in REASONS {
            let code = (0..=16).any(|code| code_name(Code::from_i32(code)) == reason);
            assert!(status::REASONS.contains(&reason) || code, "{reason}");
        }
    }

    #[test]
    fn the_edge_begins_with_the_closed_sets_at_zero() {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || begin(&Registry::default()));
        let page = recorder.handle().render();
        let series: Vec<&str> = page.lines().filter(|line| !line.starts_with('#')).collect();
        let count = |start: &str| {
            let of = series.iter().filter(|line| line.starts_with(start));
            assert!(of.clone().all(|line| line.ends_with(" 0")), "{start}");
            of.count()
        };
        // The two reflections are one.
        let methods = Method::all().count() - 1;
        let of = |role| Method::all().filter(move |method| method.role() == role);
        let work = of(Role::Work).count();
        let streams = of(Role::Work).filter(|method| method.arrival() == Arrival::Stream);
        assert_eq!(count("paternoster_calls_in_flight{"), methods);
        assert_eq!(count("paternoster_requests_total{"), methods * CODES.len());
        assert_eq!(
            count("paternoster_stream_messages_total{"),
            streams.count() * CODES.len()
        );
        assert_eq!(
            count("paternoster_call_errors_total{"),
            work * REASONS.len() + 1
        );
        assert_eq!(
            count("paternoster_connections_closed_total{"),
            Closing::ALL.len()
        );
        assert_eq!(
            count("paternoster_log_lines_held_back_total{"),
            throttle::LABELS.len()
        );
        for alone in [PANICS, LINES_LOST, CONNECTIONS].map(|name| format!("{name} ")) {
            assert_eq!(count(&alone), 1, "{alone}");
        }
        // What help says is closed, is what is begun.
        let closed = own::METRICS
            .iter()
            .find(|metric| metric.name == CONNECTIONS_CLOSED);
        for closing in Closing::ALL {
            assert!(closed.unwrap().help.contains(closing.label()));
        }
    }
}

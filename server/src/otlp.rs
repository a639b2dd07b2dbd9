//! Spans of calls, sent over OTLP to a collector, with the names of OpenTelemetry's conventions for
//! generative AI. No text is in them. A slow or dead collector costs spans, never a call.

use std::time::{Duration, SystemTime};

use metrics::counter;
use opentelemetry::trace::{
    Event, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue, StringValue};
use opentelemetry_otlp::{ExporterBuildError, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::config::Traces;
use crate::metrics::SPANS;
use crate::status::code_name;
use crate::trace::{DROPPED, Finished, SpanSink};

/// Spans of one message to the collector.
const BATCH_MAX: usize = 512;
/// The time spans wait for others to share a message with.
const GATHER: Duration = Duration::from_millis(200);
/// The time a collector has to take a message.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// The time the last spans have when the process ends.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

/// The words for what became of a span; [`DROPPED`] is the third.
const SENT: &str = "sent";
const FAILED: &str = "failed";

/// Sends spans until it is told to finish.
#[derive(Debug)]
pub struct Exporting {
    closing: CancellationToken,
    task: JoinHandle<()>,
}

impl Exporting {
    /// Sends what is left, for a bounded time.
    pub async fn finish(self) {
        self.closing.cancel();
        let aborts = self.task.abort_handle();
        if tokio::time::timeout(FINISH_TIMEOUT, self.task)
            .await
            .is_err()
        {
            aborts.abort();
        }
    }
}

/// Begins to send spans. Nothing is connected before there is one.
pub fn start(traces: &Traces) -> Result<(SpanSink, Exporting), ExporterBuildError> {
    let mut exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&traces.endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()?;
    let service = Resource::builder_empty()
        .with_service_name(traces.service_name.clone())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    exporter.set_resource(&service.build());
    for result in [SENT, FAILED, DROPPED] {
        counter!(SPANS, "result" => result).absolute(0);
    }
    let (sink, calls) = SpanSink::new();
    let closing = CancellationToken::new();
    let task = tokio::spawn(export(calls, exporter, closing.clone()));
    Ok((sink, Exporting { closing, task }))
}

async fn export(
    mut calls: mpsc::Receiver<Finished>,
    exporter: opentelemetry_otlp::SpanExporter,
    closing: CancellationToken,
) {
    let scope = InstrumentationScope::builder("paternoster").build();
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            biased;
            count = calls.recv_many(&mut batch, BATCH_MAX) => if count == 0 { break },
            () = closing.cancelled() => break,
        }
        if batch.len() < BATCH_MAX {
            tokio::select! {
                () = tokio::time::sleep(GATHER) => {}
                () = closing.cancelled() => {}
            }
        }
        while batch.len() < BATCH_MAX
            && let Ok(call) = calls.try_recv()
        {
            batch.push(call);
        }
        let spans: Vec<SpanData> = batch.drain(..).map(|call| span(&call, &scope)).collect();
        let count = spans.len() as u64;
        let sent = tokio::time::timeout(EXPORT_TIMEOUT, exporter.export(spans)).await;
        let result = match sent {
            Ok(Ok(())) => SENT,
            Ok(Err(error)) => {
                tracing::warn!(%error, count, "spans are lost");
                FAILED
            }
            Err(_) => FAILED,
        };
        counter!(SPANS, "result" => result).increment(count);
    }
}

fn span(call: &Finished, scope: &InstrumentationScope) -> SpanData {
    let start = call.ended.checked_sub(call.total).unwrap_or(call.ended);
    let trace = &call.trace;
    let state: TraceState = trace.state.parse().unwrap_or_default();
    let context = SpanContext::new(
        TraceId::from(trace.id),
        SpanId::from(trace.span),
        TraceFlags::SAMPLED,
        false,
        state,
    );
    let operation = operation(call);
    let name = match call.record.model.as_str() {
        "" => operation.to_owned(),
        model => format!("{operation} {model}"),
    };
    let status = match call.ending.code {
        Code::Ok => Status::Unset,
        _ => Status::error(error_type(call)),
    };
    SpanData {
        span_context: context,
        parent_span_id: SpanId::from(trace.parent.unwrap_or(0)),
        parent_span_is_remote: trace.parent.is_some(),
        span_kind: SpanKind::Server,
        name: name.into(),
        start_time: start,
        end_time: call.ended,
        attributes: attributes(call, operation),
        dropped_attributes_count: 0,
        events: events(call, start),
        links: SpanLinks::default(),
        status,
        instrumentation_scope: scope.clone(),
    }
}

/// The conventions' name of what a call did.
fn operation(call: &Finished) -> &'static str {
    match (&call.record.asked, call.method) {
        (Some(asked), _) if asked.is_chat => "chat",
        (_, "Generate" | "Complete") => "text_completion",
        (_, "Embed" | "EmbedStream") => "embeddings",
        (_, other) if other.starts_with("tei.Embed") => "embeddings",
        (_, other) => other,
    }
}

fn error_type(call: &Finished) -> &'static str {
    call.ending.reason.unwrap_or(code_name(call.ending.code))
}

/// What was asked and what it cost; never what it said.
fn attributes(call: &Finished, operation: &'static str) -> Vec<KeyValue> {
    let record = &call.record;
    let mut attributes = vec![
        KeyValue::new("gen_ai.operation.name", operation),
        KeyValue::new("gen_ai.provider.name", "paternoster"),
        KeyValue::new("gen_ai.response.id", record.request_id.clone()),
        KeyValue::new("rpc.system.name", "grpc"),
        KeyValue::new("rpc.method", call.method),
        KeyValue::new("rpc.response.status_code", code_name(call.ending.code)),
    ];
    let mut add = |name: &'static str, value: Option<opentelemetry::Value>| {
        attributes.extend(value.map(|value| KeyValue::new(name, value)));
    };
    if !record.model.is_empty() {
        add("gen_ai.request.model", Some(record.model.clone().into()));
        add("gen_ai.response.model", Some(record.model.clone().into()));
    }
    if let Some(asked) = &record.asked {
        let whole = |value: Option<u32>| value.map(|value| i64::from(value).into());
        let real = |value: Option<f32>| value.map(|value| f64::from(value).into());
        let seed = asked.seed.map(|seed| (seed as i64).into());
        add("gen_ai.request.max_tokens", whole(asked.max_tokens));
        add("gen_ai.request.temperature", real(asked.temperature));
        add("gen_ai.request.top_p", real(asked.top_p));
        add("gen_ai.request.top_k", whole(asked.top_k));
        add(
            "gen_ai.request.frequency_penalty",
            real(asked.frequency_penalty),
        );
        add(
            "gen_ai.request.presence_penalty",
            real(asked.presence_penalty),
        );
        add("gen_ai.request.choice.count", whole(asked.n));
        add("gen_ai.request.seed", seed);
        add(
            "gen_ai.request.stream",
            Some((call.method == "Generate").into()),
        );
    }
    if record.n.is_some() {
        let count = |tokens: u64| Some((tokens as i64).into());
        add("gen_ai.usage.input_tokens", count(record.prompt_tokens));
        add("gen_ai.usage.output_tokens", count(record.generated_tokens));
        add(
            "gen_ai.usage.cache_read.input_tokens",
            count(record.cached_tokens),
        );
    }
    let finish = record.finish.map(|finish| {
        let reasons = vec![StringValue::from(finish.to_lowercase())];
        opentelemetry::Value::Array(reasons.into())
    });
    add("gen_ai.response.finish_reasons", finish);
    let first = record.first_token.map(|time| time.as_secs_f64().into());
    add("gen_ai.response.time_to_first_chunk", first);
    if call.ending.code != Code::Ok {
        add("error.type", Some(error_type(call).into()));
    }
    attributes
}

fn events(call: &Finished, start: SystemTime) -> SpanEvents {
    let record = &call.record;
    let happened = [
        ("queued", record.n.map(|_| Duration::ZERO)),
        ("scheduled", record.queued),
        ("first_token", record.first_token),
        ("preempted", record.preempted),
        ("finished", record.finish.map(|_| call.total)),
    ];
    let mut events = SpanEvents::default();
    events.events = happened
        .into_iter()
        .filter_map(|(name, after)| Some(Event::new(name, start + after?, Vec::new(), 0)))
        .collect();
    events
}

//! Spans at a collector: a real OTLP service in this process.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use paternoster_client::v1;
use server::config::Traces;
use server::otlp::{self, Exporting};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

use crate::lines::Lines;
use crate::world::{Plan, World, ask, soon};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// What a collector was sent.
#[derive(Clone, Default)]
pub(crate) struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// A collector, and where it listens.
    pub(crate) async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let service = TraceServiceServer::new(collector.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(incoming));
        (collector, endpoint)
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        let requests = self.0.lock().unwrap();
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    fn service_name(&self) -> Option<AnyValue> {
        let requests = self.0.lock().unwrap();
        let resource = requests[0].resource_spans[0].resource.clone().unwrap();
        attribute(&resource.attributes, "service.name")
    }
}

async fn traced(endpoint: String) -> (World, Exporting) {
    let traces = Traces {
        endpoint,
        service_name: "lift".to_owned(),
    };
    let (sink, exporting) = otlp::start(&traces).unwrap();
    let plan = Plan {
        spans: Some(sink),
        ..Plan::default()
    };
    (World::ready_with(plan).await, exporting)
}

fn with_parent<T>(message: T, flags: &str) -> Request<T> {
    let mut request = Request::new(message);
    let parent = format!("00-{TRACE}-{PARENT}-{flags}");
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", parent.parse().unwrap());
    metadata.insert("tracestate", "vendor=1".parse().unwrap());
    request
}

fn attribute(attributes: &[KeyValue], key: &str) -> Option<AnyValue> {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    found.and_then(|attribute| attribute.value.clone())
}

#[expect(clippy::unnecessary_wraps, reason = "the table stays short")]
fn text(value: &str) -> Option<AnyValue> {
    let value = Some(Value::StringValue(value.to_owned()));
    Some(AnyValue { value })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[tokio::test]
async fn a_generation_is_one_span_of_its_callers_trace() {
    let (lines, _recording) = Lines::record();
    let (collector, endpoint) = Collector::start().await;
    let (world, exporting) = traced(endpoint).await;
    let request = v1::GenerateRequest {
        sampling: Some(v1::Sampling {
            temperature: Some(0.5),
            ..v1::Sampling::default()
        }),
        request_id: "mine".to_owned(),
        tenant: "a tenant".to_owned(),
        ..ask("a secret", 4)
    };
    let mut inference = world.client.inference();
    let answer = inference.complete(with_parent(request, "01")).await;
    answer.unwrap();
    // Its caller does not want it recorded.
    let quiet = inference.complete(with_parent(ask("a secret", 4), "00"));
    quiet.await.unwrap();
    soon(exporting.finish()).await;

    let spans = collector.spans();
    assert_eq!(spans.len(), 1, "{spans:?}");
    let span = &spans[0];
    assert_eq!(hexadecimal(&span.trace_id), TRACE);
    assert_eq!(hexadecimal(&span.parent_span_id), PARENT);
    assert_eq!(span.trace_state, "vendor=1");
    assert_eq!(span.name, "text_completion tiny");
    let whole = |value| {
        let value = Some(Value::IntValue(value));
        Some(AnyValue { value })
    };
    let real = Some(AnyValue {
        value: Some(Value::DoubleValue(0.5)),
    });
    for (key, value) in [
        ("gen_ai.operation.name", text("text_completion")),
        ("gen_ai.provider.name", text("paternoster")),
        ("gen_ai.response.model", text("tiny")),
        ("gen_ai.response.id", text("mine")),
        ("gen_ai.request.temperature", real),
        ("gen_ai.request.max_tokens", whole(4)),
        ("gen_ai.usage.input_tokens", whole(8)),
        ("gen_ai.usage.output_tokens", whole(4)),
        ("rpc.response.status_code", text("OK")),
        ("error.type", None),
    ] {
        assert_eq!(attribute(&span.attributes, key), value, "{key}");
    }
    let events: Vec<&str> = span
        .events
        .iter()
        .map(|event| event.name.as_str())
        .collect();
    assert_eq!(events, ["queued", "scheduled", "first_token", "finished"]);
    assert!(span.start_time_unix_nano < span.end_time_unix_nano);
    assert_eq!(collector.service_name(), text("lift"));
    assert!(!format!("{span:?}").contains("secret"));

    let calls = lines.calls();
    assert_eq!(calls[0]["trace_id"], TRACE);
    assert_eq!(calls[1]["trace_id"], TRACE);
    let tenant = calls[0]["tenant"].as_str().unwrap();
    assert_eq!(tenant.len(), 16);
    assert!(!lines.text().contains("a tenant"));
}

#[tokio::test]
async fn a_call_without_a_parent_begins_a_trace_and_errors_have_a_type() {
    let (collector, endpoint) = Collector::start().await;
    let (world, exporting) = traced(endpoint).await;
    world
        .client
        .inference()
        .complete(ask("", 4))
        .await
        .unwrap_err();
    world.client.embed(["one"]).await.unwrap();
    world
        .client
        .control()
        .get_info(v1::GetInfoRequest::default())
        .await
        .unwrap();
    soon(exporting.finish()).await;
    let spans = collector.spans();
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["text_completion tiny", "embeddings vectors"]);
    assert!(spans.iter().all(|span| span.parent_span_id.is_empty()));
    assert_ne!(spans[0].trace_id, spans[1].trace_id);
    assert_eq!(
        attribute(&spans[0].attributes, "error.type"),
        text("EMPTY_INPUT")
    );
}

#[tokio::test]
async fn a_dead_collector_costs_spans_and_nothing_else() {
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let (world, exporting) = traced(endpoint).await;
    for _ in 0..200 {
        world
            .client
            .inference()
            .complete(ask("", 4))
            .await
            .unwrap_err();
    }
    let answer = world.client.inference().complete(ask("hello", 4)).await;
    assert!(answer.is_ok());
    soon(exporting.finish()).await;
    // Nobody takes them any more: every further one is dropped and counted.
    world
        .client
        .inference()
        .complete(ask("", 4))
        .await
        .unwrap_err();
    let page = world.get("/metrics").await;
    let dropped = page
        .lines()
        .find(|line| line.starts_with("paternoster_spans_total{result=\"dropped\"}"));
    assert!(dropped.is_some(), "no drop is counted");
    world.shutdown.cancel();
    world.ended().await;
}

//! The HTTP/1.1 side of the listener: what probes and scrapers read. Everything else is 404.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use metrics_exporter_prometheus::PrometheusHandle;
use tonic::body::Body;

use crate::app::App;
use crate::dialects;
use crate::security::Exposure;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const PROMETHEUS: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

const BEARER: HeaderValue = HeaderValue::from_static("Bearer");

/// Answers a request that is not gRPC.
///
/// `/health` is 200 while no engine is down for good, `/ready` is 200 while the server takes work.
pub(crate) fn answer<B>(app: &App, request: &Request<B>) -> Response<Body> {
    let readiness = *app.readiness.borrow();
    let (status, body) = match request.uri().path() {
        _ if request.method() != Method::GET && request.method() != Method::HEAD => {
            (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned())
        }
        "/health" if readiness.alive => (StatusCode::OK, "ok\n".to_owned()),
        "/health" => (
            StatusCode::SERVICE_UNAVAILABLE,
            "an engine is down\n".to_owned(),
        ),
        "/ready" if readiness.ready => (StatusCode::OK, "ready\n".to_owned()),
        "/ready" => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned()),
        "/metrics" if app.security.metrics == Exposure::Off => not_found(),
        "/metrics" if !app.security.shows_metrics(request.headers()) => {
            let mut refused = refuse(StatusCode::UNAUTHORIZED, "an API key is needed\n");
            refused.headers_mut().insert(WWW_AUTHENTICATE, BEARER);
            return refused;
        }
        "/metrics" => {
            dialects::look(app);
            let rendered = app.metrics.as_ref().map(PrometheusHandle::render);
            return respond(StatusCode::OK, PROMETHEUS, rendered.unwrap_or_default());
        }
        _ => not_found(),
    };
    respond(status, TEXT, body)
}

fn not_found() -> (StatusCode, String) {
    (StatusCode::NOT_FOUND, "not found\n".to_owned())
}

/// A plain answer.
pub(crate) fn refuse(status: StatusCode, message: &'static str) -> Response<Body> {
    respond(status, TEXT, message.to_owned())
}

fn respond(status: StatusCode, kind: HeaderValue, body: String) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(body))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

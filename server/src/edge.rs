//! What holds for every call, whatever it does: admission, deadline, panics, canonical codes,
//! counting. gRPC goes to the services, everything else to the probes.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service as _;

use crate::app::App;
use crate::call::{Call, CallBody};
use crate::clock::{Deadline, parse_grpc_timeout};
use crate::method::{Method, Role};
use crate::pages;
use crate::status::Fault;

/// One server's way in. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Edge {
    app: Arc<App>,
    routes: Routes,
}

/// What a call of `Inference` holds until its last byte is sent.
pub(crate) struct Admission {
    _permit: OwnedSemaphorePermit,
    _work: TaskTrackerToken,
}

impl Edge {
    pub(crate) fn new(app: Arc<App>, routes: Routes) -> Self {
        Self { app, routes }
    }

    /// Answers one request of either protocol.
    pub(crate) async fn answer(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        Ok(match kind_of(&request) {
            Kind::Grpc => self.grpc(request).await,
            Kind::Http => pages::answer(&self.app, &request),
            Kind::GrpcOverHttp1 => pages::refuse(
                StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                "gRPC needs HTTP/2\n",
            ),
            Kind::OtherGrpc => pages::refuse(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "only application/grpc\n",
            ),
        })
    }

    async fn grpc(mut self, mut request: Request<Incoming>) -> Response<Body> {
        let method = Method::of(request.uri().path());
        let mut call = Call::begin(method);
        match self.admit(method) {
            Ok(admission) => call.hold(admission),
            Err(fault) => return call.refuse(fault.into()),
        }
        let timeout = request.headers().get("grpc-timeout");
        let timeout = timeout.and_then(|value| parse_grpc_timeout(value.as_bytes()));
        let longest = Deadline::after(self.app.limits.request_timeout_max);
        let deadline = longest.or_after(timeout);
        request.extensions_mut().insert(deadline);
        let work = AssertUnwindSafe(self.routes.call(request)).catch_unwind();
        // Methods keep their deadline by themselves and say more about it; this is for those that
        // cannot, because their request does not arrive.
        let status = match deadline.with_grace().limit(work).await {
            Some(Ok(Ok(response))) => match oversize(&response) {
                None => return call.stream(response),
                Some(fault) => fault.into(),
            },
            Some(Ok(Err(never))) => match never {},
            Some(Err(_panic)) => {
                metrics::counter!(crate::metrics::PANICS).increment(1);
                Fault::panic().into()
            }
            None => Status::from(Fault::deadline()),
        };
        call.refuse(status)
    }

    /// Control and health are answered always; work only while there is room and no drain.
    fn admit(&self, method: Method) -> Result<Option<Admission>, Fault> {
        if method.role() != Role::Work {
            return Ok(None);
        }
        let lifecycle = &self.app.lifecycle;
        // Counted before the look at `draining`, so that a drain either refuses a call or waits for it.
        let work = lifecycle.work();
        if lifecycle.draining.is_cancelled() {
            return Err(Fault::draining());
        }
        let permit = Arc::clone(&self.app.calls)
            .try_acquire_owned()
            .map_err(|_| {
                let calls_max = self.app.limits.calls_max;
                Fault::queue_full(format!("{calls_max} calls run already"))
                    .with("calls_max", calls_max)
            })?;
        Ok(Some(Admission {
            _permit: permit,
            _work: work,
        }))
    }
}

/// The protocol of one request.
enum Kind {
    Grpc,
    Http,
    GrpcOverHttp1,
    OtherGrpc,
}

fn kind_of<B>(request: &Request<B>) -> Kind {
    let content_type = request
        .headers()
        .get(CONTENT_TYPE)
        .map_or(&b""[..], |value| value.as_bytes());
    let Some(rest) = content_type.strip_prefix(b"application/grpc") else {
        return Kind::Http;
    };
    match rest.first() {
        None | Some(b'+' | b';') if request.version() == Version::HTTP_2 => Kind::Grpc,
        None | Some(b'+' | b';') => Kind::GrpcOverHttp1,
        Some(_) => Kind::OtherGrpc,
    }
}

/// The library refuses a message above the limit with OUT_OF_RANGE, which no service here uses.
fn oversize(response: &Response<Body>) -> Option<Fault> {
    let status = Status::from_header_map(response.headers())?;
    (status.code() == Code::OutOfRange).then(|| Fault::message_too_large(status.message()))
}

impl Call {
    /// Ends the call before it began to stream.
    fn refuse(self, status: Status) -> Response<Body> {
        self.stream(status.into_http())
    }

    /// Watches an answer to its end.
    fn stream(mut self, response: Response<Body>) -> Response<Body> {
        if let Some(status) = Status::from_header_map(response.headers()) {
            self.end(status.code());
            return response;
        }
        response.map(|body| Body::new(CallBody::new(body, self)))
    }
}

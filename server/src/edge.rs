//! What holds for every call, whatever it does: admission, deadline, panics, canonical codes,
//! counting. gRPC goes to the services, everything else to the probes.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service as _;

use crate::app::App;
use crate::arriving::Arriving;
use crate::call::{Answer, Call, CallBody, Held, Place};
use crate::clock::{Deadline, parse_grpc_timeout};
use crate::grpc::validate::is_identifier;
use crate::journal::Report;
use crate::limits::LOOKS_MAX;
use crate::method::{Arrival, Method, Role};
use crate::page_body::{Page, PageBody};
use crate::pages;
use crate::security::{Account, Caller, Slot};
use crate::status::{Ending, Fault};
use crate::trace::Trace;
use crate::transport::Peer;

/// One server's way in. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Edge {
    app: Arc<App>,
    routes: Routes,
    offer: Offer,
}

/// What is answered at one entrance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offer {
    /// Every service.
    All,
    /// What a probe asks for.
    Health,
}

/// Where a request comes from.
#[derive(Clone, Debug)]
pub(crate) struct Origin<G> {
    /// Who sent it.
    pub(crate) peer: Peer,
    /// Ends the connection.
    pub(crate) connection: CancellationToken,
    /// One permit for each call of the connection that nobody needs a key for, and that may last.
    pub(crate) looks: Arc<Semaphore>,
    /// One permit for each of its pages.
    pub(crate) pages: Arc<Semaphore>,
    /// Dropped when the connection has nothing more to send of the answer.
    pub(crate) open: G,
}

impl<G> Origin<G> {
    /// A permit for a method that answers whoever asks.
    fn look(&self, method: Method) -> Result<Option<OwnedSemaphorePermit>, Fault> {
        if !method.is_health() && !method.is_reflection() {
            return Ok(None);
        }
        let look = Arc::clone(&self.looks).try_acquire_owned();
        let full = || format!("{LOOKS_MAX} such calls run on this connection already");
        look.map(Some).map_err(|_| Fault::queue_full(full()))
    }
}

/// What a method knows of its call; travels in the request's extensions.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// When it must have ended.
    pub(crate) deadline: Deadline,
    /// Whether the client has set that time, or the server's own limit is meant.
    pub(crate) timeout: Timeout,
    /// What it tells of itself.
    pub(crate) report: Arc<Report>,
    /// Who calls.
    pub(crate) caller: Caller,
    place: Place,
}

/// Where a call's deadline comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timeout {
    /// `grpc-timeout`.
    Asked,
    /// The longest time a request may take.
    Longest,
}

impl Context {
    /// Makes this one of the calls that run, until it ends. Its message has arrived: a client that
    /// sends half of one takes no place.
    pub(crate) fn take_place(&self, app: &App) -> Result<(), Fault> {
        let slot = self.slot()?;
        let permit = app.take_place()?;
        self.place.hold(Held {
            _permit: permit,
            _slot: slot,
        });
        Ok(())
    }

    /// As [`Context::take_place`], but waits for one.
    pub(crate) async fn await_place(&self, app: &App) -> Result<(), Fault> {
        self.place.hold(self.wait_for_place(app).await?);
        Ok(())
    }

    /// Waits until one request of a stream may run with the others.
    pub(crate) async fn wait_for_place(&self, app: &App) -> Result<Held, Fault> {
        let place = Arc::clone(&app.calls).acquire_owned();
        let place = self.deadline.limit(place).await;
        let place = place.ok_or_else(Fault::deadline)?;
        Ok(Held {
            _permit: place.map_err(|_| app.no_place())?,
            _slot: self.slot()?,
        })
    }

    /// One of the requests that the caller's tenant may have.
    fn slot(&self) -> Result<Option<Slot>, Fault> {
        self.caller.account.as_ref().map(Account::admit).transpose()
    }
}

impl Edge {
    pub(crate) fn new(app: Arc<App>, routes: Routes) -> Self {
        let offer = Offer::All;
        Self { app, routes, offer }
    }

    /// The same server at an entrance where health and pages alone are answered.
    pub(crate) fn for_probes(self) -> Self {
        let offer = Offer::Health;
        Self { offer, ..self }
    }

    /// Answers one request of either protocol.
    pub(crate) async fn answer<G: Send + Unpin + 'static>(
        self,
        request: Request<Incoming>,
        origin: Origin<G>,
    ) -> Result<Response<Body>, Infallible> {
        Ok(match kind_of(&request) {
            Kind::Grpc => self.grpc(request, origin).await,
            Kind::Http => self.page(&request, origin),
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

    /// Answers with a page, of which a connection has few on their way at once.
    fn page<G: Send + Unpin + 'static>(
        &self,
        request: &Request<Incoming>,
        origin: Origin<G>,
    ) -> Response<Body> {
        let Ok(place) = Arc::clone(&origin.pages).try_acquire_owned() else {
            let message = "too many pages of this connection are not read yet\n";
            return pages::refuse(StatusCode::SERVICE_UNAVAILABLE, message);
        };
        pages::answer(&self.app, request).map(|body| {
            let page = Page::new(origin.connection);
            self.app.sweeper.add(&page);
            Body::new(PageBody::new(body, page, (place, origin.open)))
        })
    }

    async fn grpc<G: Send + Unpin + 'static>(
        mut self,
        mut request: Request<Incoming>,
        origin: Origin<G>,
    ) -> Response<Body> {
        let method = Method::of(request.uri().path());
        let request_id = named(request.headers()).unwrap_or_else(|| self.app.ids.request_id());
        let trace = Trace::of(request.headers(), &self.app.ids);
        let spans = self.app.spans.clone();
        let own = || spans.as_ref().map(|_| Trace::new(&self.app.ids));
        let report =
            Report::begin(origin.peer, request_id).in_trace(trace.or_else(own), spans.clone());
        let mut call = Call::begin(method, report);
        let admitted = self.admit(&mut call, request.headers());
        let looked = admitted.and_then(|admitted| Ok((admitted, origin.look(method)?)));
        let (caller, asked) = match looked {
            Ok((admitted, look)) => {
                call.look = look;
                admitted
            }
            Err(fault) => return refuse(call, fault.into()),
        };
        let longest = Deadline::after(self.app.limits.request_timeout_max);
        let context = Context {
            deadline: longest.or_after(asked),
            timeout: asked.map_or(Timeout::Longest, |_| Timeout::Asked),
            report: Arc::clone(&call.report),
            caller,
            place: call.place.clone(),
        };
        let deadline = context.deadline.with_grace();
        // Streams that may last are limited only where their client says so.
        let lasts = method.role() == Role::Control || method.arrival() == Arrival::Stream;
        let ends = (!lasts || asked.is_some()).then_some(deadline);
        request.extensions_mut().insert(context);
        let message_timeout = match method.arrival() {
            Arrival::Message => Some(self.app.limits.message_timeout),
            Arrival::Stream => None,
        };
        let request = request.map(|body| Arriving::new(body, message_timeout, &self.app.arriving));
        let work = AssertUnwindSafe(self.routes.call(request)).catch_unwind();
        // Methods keep their deadline by themselves and say more about it; this is for those that
        // cannot.
        let status = match deadline.limit(work).await {
            Some(Ok(Ok(response))) => match oversize(&response) {
                None => return self.stream(call, response, ends, origin),
                Some(fault) => fault.into(),
            },
            Some(Ok(Err(never))) => match never {},
            Some(Err(_panic)) => {
                metrics::counter!(crate::metrics::PANICS).increment(1);
                Fault::panic().into()
            }
            None => Status::from(Fault::deadline()),
        };
        refuse(call, status)
    }

    /// Takes a call in, or says why not; answers who calls, and the time it gives the call.
    fn admit(
        &self,
        call: &mut Call,
        headers: &HeaderMap,
    ) -> Result<(Caller, Option<Duration>), Fault> {
        let method = call.method();
        // Before anything is told of what there is and how it does.
        let caller = self.app.security.admit(method, headers)?;
        call.report.set_caller(caller.clone());
        // No path but those of the table comes to a service, however it is spelt.
        if !method.is_known() || self.offer == Offer::Health && !method.is_health() {
            return Err(Fault::no_such_method());
        }
        let asked = asked_time(headers)?;
        if let Some(work) = self.work(method)? {
            call.hold(work);
        }
        Ok((caller, asked))
    }

    /// Control and health are answered always; work only while there is room and no drain.
    fn work(&self, method: Method) -> Result<Option<TaskTrackerToken>, Fault> {
        if method.role() != Role::Work {
            return Ok(None);
        }
        let lifecycle = &self.app.lifecycle;
        // Counted before the look at `draining`, so that a drain either refuses a call or waits for it.
        let work = lifecycle.work();
        if lifecycle.draining.is_cancelled() {
            return Err(Fault::draining().retry_soon());
        }
        // The place itself is taken once the message is there; this spares the wait for it.
        if !method.waits() && self.app.calls.available_permits() == 0 {
            return Err(self.app.no_place());
        }
        Ok(Some(work))
    }

    /// Watches an answer to its end.
    fn stream<G: Send + Unpin + 'static>(
        &self,
        mut call: Call,
        mut response: Response<Body>,
        ends: Option<Deadline>,
        origin: Origin<G>,
    ) -> Response<Body> {
        name(&mut response, &call);
        if let Some(status) = Status::from_header_map(response.headers()) {
            call.end(Ending::of(&status));
            return response;
        }
        response.map(|body| {
            let answer = Answer::new(body, call, ends, origin.connection);
            self.app.sweeper.add(&answer);
            Body::new(CallBody::new(answer, origin.open))
        })
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

/// The time that `grpc-timeout` gives the call.
fn asked_time(headers: &HeaderMap) -> Result<Option<Duration>, Fault> {
    let Some(value) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    match parse_grpc_timeout(value.as_bytes()) {
        Some(time) => Ok(Some(time)),
        None => Err(Fault::bad_timeout()),
    }
}

/// The library refuses a message above the limit with OUT_OF_RANGE, which no service here uses.
fn oversize(response: &Response<Body>) -> Option<Fault> {
    let status = Status::from_header_map(response.headers())?;
    (status.code() == Code::OutOfRange).then(|| Fault::message_too_large(status.message()))
}

/// Ends a call before it began to stream.
fn refuse(mut call: Call, status: Status) -> Response<Body> {
    call.end(Ending::of(&status));
    let mut response = status.into_http();
    name(&mut response, &call);
    response
}

const REQUEST_ID: &str = "x-request-id";

/// The id that the metadata gives the request, if it is one.
fn named(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    is_identifier(id).then(|| id.to_owned())
}

/// Every answer tells the id its request goes by.
fn name(response: &mut Response<Body>, call: &Call) {
    // Request ids are checked to be characters that a header can hold.
    if let Ok(id) = HeaderValue::try_from(call.report.request_id()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
}

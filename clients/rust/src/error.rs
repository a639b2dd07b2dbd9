//! How a call ended, in what a caller may want to do something about.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The request is wrong, wherever it is sent.
    Invalid,
    /// No such model or adapter.
    NotFound,
    /// The server's state does not allow it: an encoder was asked to generate, for example.
    Precondition,
    /// No API key, or a wrong one.
    Unauthenticated,
    /// The API key does not allow it.
    Permission,
    /// More arrives than is served.
    Overloaded,
    /// The server drains, restarts or cannot be reached.
    Unavailable,
    /// The deadline passed.
    DeadlineExceeded,
    /// Somebody ended the call.
    Cancelled,
    /// The server cannot do this.
    Unimplemented,
    /// The server failed on this request.
    Generation,
    /// A stream broke off after its first tokens, which may have been used already.
    Incomplete,
}

/// A call failed.
#[derive(Debug, thiserror::Error)]
#[error("{status_code:?}{dash}{}: {} (request {})", .0.reason, .0.status.message(), .0.request_id,
    status_code = .0.status.code(), dash = if .0.reason.is_empty() { "" } else { " " })]
pub struct Error(Box<Failure>);

#[derive(Debug)]
struct Failure {
    kind: Kind,
    reason: String,
    field: Option<String>,
    metadata: HashMap<String, String>,
    retry_after: Option<Duration>,
    request_id: String,
    status: Status,
}

impl Error {
    /// Reads a status and its details. `tokens`: whether tokens of the stream had arrived.
    pub(crate) fn new(status: Status, request_id: &str, tokens: bool) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let reason = info.map(|info| info.reason.clone()).unwrap_or_default();
        let violations = details.bad_request().map(|bad| &bad.field_violations);
        let field = violations.and_then(|all| all.first());
        let retry = details.retry_info();
        Self(Box::new(Failure {
            kind: kind_of(status.code(), &reason, tokens),
            field: field.map(|violation| violation.field.clone()),
            metadata: info.map(|info| info.metadata.clone()).unwrap_or_default(),
            retry_after: retry.map(|retry| retry.retry_delay.unwrap_or_default()),
            request_id: request_id.to_owned(),
            reason,
            status,
        }))
    }

    /// What kind of failure it was.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The code of the status.
    pub fn code(&self) -> Code {
        self.0.status.code()
    }

    /// One of the reasons that the contract lists, as "QUEUE_FULL"; empty where there is none.
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// The field of the request that is at fault: "stopping.max_tokens".
    pub fn field(&self) -> Option<&str> {
        self.0.field.as_deref()
    }

    /// The numbers that matter, as the limit that was exceeded.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.0.metadata
    }

    /// When to come back, if the server said so.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The name of the request, as it stands in the server's log.
    pub fn request_id(&self) -> &str {
        &self.0.request_id
    }

    /// The status itself, with its trailers.
    pub fn status(&self) -> &Status {
        &self.0.status
    }

    /// The trailer grpc-retry-pushback-ms; a value that is not text says nothing that can be heeded.
    pub(crate) fn pushback(&self) -> Option<&str> {
        let value = self.0.status.metadata().get("grpc-retry-pushback-ms")?;
        Some(value.to_str().unwrap_or_default())
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        error.0.status
    }
}

fn kind_of(code: Code, reason: &str, tokens: bool) -> Kind {
    use Code::{Aborted, DataLoss, Internal, ResourceExhausted, Unavailable, Unknown};
    match code {
        Unavailable | ResourceExhausted | Internal | Unknown | DataLoss | Aborted if tokens => {
            Kind::Incomplete
        }
        ResourceExhausted if reason == "MESSAGE_TOO_LARGE" => Kind::Invalid,
        ResourceExhausted => Kind::Overloaded,
        Unavailable => Kind::Unavailable,
        Code::InvalidArgument | Code::OutOfRange => Kind::Invalid,
        Code::NotFound => Kind::NotFound,
        Code::FailedPrecondition => Kind::Precondition,
        Code::Unauthenticated => Kind::Unauthenticated,
        Code::PermissionDenied => Kind::Permission,
        Code::DeadlineExceeded => Kind::DeadlineExceeded,
        Code::Cancelled => Kind::Cancelled,
        Code::Unimplemented => Kind::Unimplemented,
        _ => Kind::Generation,
    }
}

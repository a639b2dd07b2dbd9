//! The one table from what can go wrong to gRPC codes, reasons, details and retry hints.
//!
//! The reasons stand in the comments of `paternoster/v1/common.proto`; a test keeps the two equal.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use engine::handle::{EncodeError, End, Refusal};
use engine::request::{Finish, Micros, Reject};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::security::Exceeded;
use crate::text::chat::{ChatError, TemplateError};
use crate::text::tokenizer::TokenizeError;

/// The domain of every reason.
pub const DOMAIN: &str = "paternoster.v1";

/// Bytes of a status message; what users sent may stand in it, so it is cut.
const MESSAGE_BYTES_MAX: usize = 1024;

/// When a client that met a full queue should come back.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// And not before.
const RETRY_MIN: Duration = Duration::from_millis(1);

/// Every reason, as the contract lists them: the closed set of the label `reason`.
pub(crate) const REASONS: [&str; 44] = [
    "EMPTY_INPUT",
    "INPUT_TOO_LARGE",
    "CONTEXT_LENGTH_EXCEEDED",
    "EXCEEDS_KV_CAPACITY",
    "OUT_OF_RANGE",
    "MAX_TOKENS_OUT_OF_RANGE",
    "MIN_TOKENS_OUT_OF_RANGE",
    "N_TOO_LARGE",
    "LOGPROBS_TOO_MANY",
    "TOKEN_ID_OUT_OF_RANGE",
    "STOP_TOO_MANY",
    "STOP_TOO_LONG",
    "TOO_MANY_INPUTS",
    "UNKNOWN_ENUM",
    "BAD_REQUEST_ID",
    "BAD_TIMEOUT",
    "BAD_MODEL_ID",
    "BAD_CACHE_SALT",
    "BAD_TENANT",
    "BAD_ROLE",
    "CHAT_TEMPLATE",
    "TEMPLATE_LIMIT",
    "TOKENIZE_FAILED",
    "UNKNOWN_PROMPT_NAME",
    "MODEL_NOT_FOUND",
    "WRONG_TASK",
    "BAD_API_KEY",
    "RIGHT_MISSING",
    "TENANT_DENIED",
    "QUOTA_EXCEEDED",
    "QUEUE_FULL",
    "TENANT_SHARE_FULL",
    "WAIT_TOO_LONG",
    "MESSAGE_TOO_LARGE",
    "CONSUMER_TOO_SLOW",
    "DRAINING",
    "ENGINE_DOWN",
    "DEADLINE_EXCEEDED",
    "MESSAGE_OVERDUE",
    "REQUEST_ABORTED",
    "NUMERICAL_ERROR",
    "PANIC",
    "ENCODER_FAILED",
    "NOT_IMPLEMENTED",
];

/// How a call ended: what counts it and what its line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) code: Code,
    /// The reason in the details; the code's name where there is none. `None` for a good end.
    pub(crate) reason: Option<&'static str>,
}

impl Ending {
    pub(crate) const OK: Self = Self {
        code: Code::Ok,
        reason: None,
    };
    /// The client went away.
    pub(crate) const CANCELLED: Self = Self {
        code: Code::Cancelled,
        reason: Some("CANCELLED"),
    };

    /// How a call with this status ended.
    pub(crate) fn of(status: &Status) -> Self {
        let code = status.code();
        if code == Code::Ok {
            return Self::OK;
        }
        let details = status.get_error_details();
        let said = details.error_info().map(|info| info.reason.as_str());
        let known = said.and_then(|said| REASONS.into_iter().find(|reason| *reason == said));
        Self {
            code,
            reason: Some(known.unwrap_or(code_name(code))),
        }
    }
}

/// A failed call, before it is put on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    code: Code,
    reason: &'static str,
    message: String,
    field: Option<Cow<'static, str>>,
    numbers: Vec<(&'static str, u64)>,
    retry: Option<Duration>,
    /// Whose quota, and which.
    quota: Option<Box<(String, String)>>,
}

impl Fault {
    /// A failure with a code and a reason.
    pub fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        }
        Self {
            code,
            reason,
            message,
            field: None,
            numbers: Vec::new(),
            retry: None,
            quota: None,
        }
    }

    /// A request that is wrong whatever the state: which field, and why.
    pub fn invalid(
        field: impl Into<Cow<'static, str>>,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self::new(Code::InvalidArgument, reason, message).at(field)
    }

    /// A field that nothing is built for yet.
    pub fn not_built(field: &'static str) -> Self {
        Self::new(
            Code::Unimplemented,
            "NOT_IMPLEMENTED",
            format!("{field} is not built yet"),
        )
        .at(field)
    }

    /// A method that nothing is built for yet.
    pub fn method_not_built(method: &str) -> Self {
        Self::new(
            Code::Unimplemented,
            "NOT_IMPLEMENTED",
            format!("{method} is not built yet"),
        )
    }

    /// The server drains.
    pub fn draining() -> Self {
        Self::new(
            Code::Unavailable,
            "DRAINING",
            "the server is draining; another one may answer",
        )
    }

    /// The path names nothing.
    pub fn no_such_method() -> Self {
        let message = "there is no such method";
        Self::new(Code::Unimplemented, "NOT_IMPLEMENTED", message)
    }

    /// `grpc-timeout` is not what the protocol writes.
    pub fn bad_timeout() -> Self {
        let message = "grpc-timeout is up to eight digits and one of H M S m u n";
        Self::new(Code::InvalidArgument, "BAD_TIMEOUT", message)
    }

    /// No key, or one that there is not: which of them is not told.
    pub(crate) fn bad_api_key() -> Self {
        let message = "an API key is needed, as the metadata \"authorization: Bearer KEY\"";
        Self::new(Code::Unauthenticated, "BAD_API_KEY", message)
    }

    /// The key is good, but not for this.
    pub(crate) fn right_missing(right: &str) -> Self {
        let message = format!("this API key does not have the right \"{right}\"");
        Self::new(Code::PermissionDenied, "RIGHT_MISSING", message)
    }

    /// The key is another tenant's.
    pub(crate) fn tenant_denied(field: &'static str) -> Self {
        let message = "this API key speaks for another tenant; one with the right \"tenants\" may \
                       name others in the metadata x-tenant-id";
        Self::new(Code::PermissionDenied, "TENANT_DENIED", message).at(field)
    }

    /// A tenant has used up what it may use.
    pub(crate) fn quota_exceeded(exceeded: Exceeded) -> Self {
        let Exceeded {
            tenant,
            quota,
            limit,
            wait,
        } = exceeded;
        let message = format!("the tenant {tenant} has used up {quota} = {limit}");
        let mut fault = Self::new(Code::ResourceExhausted, "QUOTA_EXCEEDED", message);
        fault.retry = Some(wait.unwrap_or(RETRY_AFTER).max(RETRY_MIN));
        let quota = (format!("tenant:{tenant}"), format!("{quota} = {limit}"));
        fault.quota = Some(Box::new(quota));
        fault.with("limit", limit)
    }

    /// The deadline passed.
    pub fn deadline() -> Self {
        Self::new(
            Code::DeadlineExceeded,
            "DEADLINE_EXCEEDED",
            "the deadline has passed",
        )
    }

    /// The message, or the next one of a stream, does not arrive.
    pub fn message_overdue() -> Self {
        let message = "the request did not arrive in time";
        Self::new(Code::DeadlineExceeded, "MESSAGE_OVERDUE", message)
    }

    /// Nobody reads the answer.
    pub fn consumer_too_slow() -> Self {
        let message = "the stream was not read for too long";
        Self::new(Code::ResourceExhausted, "CONSUMER_TOO_SLOW", message)
    }

    /// `Control.Abort` named this request, and nobody reads its answer to see it finish.
    pub fn aborted() -> Self {
        let message = "the request was aborted by its id";
        Self::new(Code::Cancelled, "REQUEST_ABORTED", message)
    }

    /// Too much waits already.
    pub fn queue_full(message: impl Into<String>) -> Self {
        Self::new(Code::ResourceExhausted, "QUEUE_FULL", message).retry_soon()
    }

    /// A message on the wire is larger than the server takes.
    pub fn message_too_large(message: impl Into<String>) -> Self {
        Self::new(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", message)
    }

    /// The code of this server broke off.
    pub fn panic() -> Self {
        Self::new(Code::Internal, "PANIC", "internal error")
    }

    /// Nothing was done yet, so the same request may come again.
    #[must_use]
    pub fn retry_soon(mut self) -> Self {
        self.retry = Some(RETRY_AFTER);
        self
    }

    /// Names the field at fault by its path in the request.
    #[must_use]
    pub fn at(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Adds a number as metadata: a limit, or what was found instead.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl TryInto<u64>) -> Self {
        self.numbers
            .push((name, value.try_into().unwrap_or(u64::MAX)));
        self
    }

    /// The status with extra trailers.
    pub fn into_status(self, mut trailers: MetadataMap) -> Status {
        let numbers: HashMap<String, String> = self
            .numbers
            .iter()
            .map(|(name, n)| ((*name).to_owned(), n.to_string()))
            .collect();
        let mut details = ErrorDetails::with_error_info(self.reason, DOMAIN, numbers);
        if let Some(field) = self.field {
            details.add_bad_request_violation(field, self.message.clone());
        }
        if let Some((subject, description)) = self.quota.map(|quota| *quota) {
            details.add_quota_failure_violation(subject, description);
        }
        if let Some(delay) = self.retry {
            details.set_retry_info(Some(delay));
            trailers.insert("grpc-retry-pushback-ms", (delay.as_millis() as u64).into());
        }
        Status::with_error_details_and_metadata(self.code, self.message, details, trailers)
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        fault.into_status(MetadataMap::new())
    }
}

// === the table ===

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Reject(reject) => reject.into(),
            Refusal::Draining => Self::draining(),
            Refusal::Unavailable => engine_down(),
        }
    }
}

impl From<Reject> for Fault {
    fn from(reject: Reject) -> Self {
        match reject {
            Reject::QueueFull { waiting } => {
                Self::queue_full(format!("{waiting} requests wait already"))
                    .with("waiting", waiting)
            }
            Reject::QueueTokensFull { tokens, tokens_max } => {
                Self::queue_full(format!("{tokens} tokens wait already"))
                    .with("tokens", tokens)
                    .with("tokens_max", tokens_max)
            }
            Reject::ShareFull {
                requests,
                requests_max,
            } => share_full(format!("the tenant has {requests} requests in flight"))
                .with("requests", requests)
                .with("requests_max", requests_max),
            Reject::ShareTokensFull { tokens, tokens_max } => {
                share_full(format!("{tokens} tokens of the tenant wait already"))
                    .with("tokens", tokens)
                    .with("tokens_max", tokens_max)
            }
            Reject::WaitTooLong { wait, wait_max } => wait_too_long(wait, wait_max),
            Reject::TooLong { tokens, tokens_max } => Self::invalid(
                "input",
                "CONTEXT_LENGTH_EXCEEDED",
                format!("prompt and output are {tokens} tokens, more than {tokens_max}"),
            )
            .with("tokens", tokens)
            .with("tokens_max", tokens_max),
            Reject::ExceedsPool { blocks, blocks_max } => Self::invalid(
                "stopping.max_tokens",
                "EXCEEDS_KV_CAPACITY",
                format!("prompt and output need {blocks} KV blocks; there are {blocks_max}"),
            )
            .with("blocks", blocks)
            .with("blocks_max", blocks_max),
            Reject::EmptyPrompt => empty_input("input"),
            Reject::Expired => Self::deadline(),
        }
    }
}

/// One tenant fills as much of the queue as it may.
fn share_full(message: String) -> Fault {
    Fault::new(Code::ResourceExhausted, "TENANT_SHARE_FULL", message).retry_soon()
}

/// The first token would come too late. With nothing added to the queue, it would not after as long
/// as is too much now.
fn wait_too_long(wait: Micros, wait_max: Micros) -> Fault {
    let [wait, wait_max] = [wait, wait_max].map(|time| Duration::from_micros(time.0));
    let message =
        format!("the first token would probably take {wait:.1?}, more than {wait_max:.1?}");
    let mut fault = Fault::new(Code::ResourceExhausted, "WAIT_TOO_LONG", message);
    fault.retry = Some(wait.saturating_sub(wait_max).max(RETRY_MIN));
    let millis = |time: Duration| time.as_millis();
    fault
        .with("wait_ms", millis(wait))
        .with("wait_max_ms", millis(wait_max))
}

/// Why a stream broke off; `None` where it came to an ordinary end.
pub fn fault_of_end(end: End) -> Option<Fault> {
    Some(match end {
        End::Finish(Finish::Stop | Finish::Length) => return None,
        // Requests aborted by their own caller are gone; what remains was aborted by a drain.
        End::Finish(Finish::Abort) => Fault::draining(),
        End::Finish(Finish::Deadline) => Fault::deadline(),
        End::Finish(Finish::Fault) => Fault::new(
            Code::Internal,
            "NUMERICAL_ERROR",
            "the model computed values that are not finite",
        ),
        End::Stalled => Fault::consumer_too_slow(),
        End::EngineDown => engine_down(),
    })
}

impl From<EncodeError> for Fault {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::Refused(refusal) => refusal.into(),
            EncodeError::Deadline => Self::deadline(),
            EncodeError::Failed => Self::new(
                Code::Internal,
                "ENCODER_FAILED",
                "the encoder failed on this input",
            ),
        }
    }
}

impl From<TokenizeError> for Fault {
    fn from(error: TokenizeError) -> Self {
        let message = error.to_string();
        match error {
            TokenizeError::Busy => Self::queue_full(message),
            TokenizeError::TooLarge { bytes, bytes_max } => {
                input_too_large("input", bytes, bytes_max)
            }
            TokenizeError::Failed(_) => Self::invalid("input", "TOKENIZE_FAILED", message),
        }
    }
}

impl From<ChatError> for Fault {
    fn from(error: ChatError) -> Self {
        match error {
            ChatError::Tokenize(error) => error.into(),
            ChatError::Template(error) => error.into(),
        }
    }
}

impl From<TemplateError> for Fault {
    fn from(error: TemplateError) -> Self {
        let limit = matches!(error, TemplateError::Limit(_));
        let reason = if limit {
            "TEMPLATE_LIMIT"
        } else {
            "CHAT_TEMPLATE"
        };
        Self::invalid("chat", reason, error.to_string())
    }
}

/// An input that gives no token.
pub fn empty_input(field: impl Into<Cow<'static, str>>) -> Fault {
    let field = field.into();
    let message = format!("{field} is empty");
    Fault::invalid(field, "EMPTY_INPUT", message)
}

/// An input of more bytes than are looked at.
pub fn input_too_large(
    field: impl Into<Cow<'static, str>>,
    bytes: usize,
    bytes_max: usize,
) -> Fault {
    let message = format!("the input has {bytes} bytes, more than {bytes_max}");
    Fault::invalid(field, "INPUT_TOO_LARGE", message)
        .with("bytes", bytes)
        .with("bytes_max", bytes_max)
}

fn engine_down() -> Fault {
    Fault::new(
        Code::Unavailable,
        "ENGINE_DOWN",
        "the model's engine is down or restarting",
    )
}

/// The word for a code in metrics and logs.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_those_of_the_contract_and_no_other() {
        let contract = include_str!("../../proto/paternoster/v1/common.proto");
        let start = contract.find("// INVALID_ARGUMENT:").unwrap();
        let listed = &contract[start..contract.find("message Usage").unwrap()];
        let upper = |c: char| c.is_ascii_uppercase() || c == '_';
        let codes = code_words();
        let mut listed: Vec<&str> = listed
            .split(|c| !upper(c))
            .filter(|word| word.len() > 3 && (!codes.contains(word) || REASONS.contains(word)))
            .collect();
        listed.sort_unstable();
        listed.dedup();
        let mut known = REASONS;
        known.sort_unstable();
        assert_eq!(listed, known);
    }

    #[test]
    fn every_reason_is_given_somewhere_and_nothing_else_is() {
        let own = include_str!("status.rs");
        let table = own.find("const REASONS").unwrap()..own.find("/// How a call ended").unwrap();
        let (before, after) = (&own[..table.start], &own[table.end..]);
        let sources = [
            before,
            &after[..after.find("#[cfg(test)]").unwrap()],
            include_str!("registry.rs"),
            include_str!("grpc/validate.rs"),
            include_str!("grpc/generate.rs"),
            include_str!("grpc/encoding.rs"),
            include_str!("tei/mod.rs"),
            include_str!("tei/tokenize.rs"),
            include_str!("grpc/tokenize.rs"),
        ];
        let upper = |c: char| c.is_ascii_uppercase() || c == '_';
        let given: Vec<&str> = sources
            .iter()
            .flat_map(|source| source.split('"').skip(1).step_by(2))
            .filter(|quoted| quoted.len() > 3 && quoted.chars().all(upper))
            .collect();
        for reason in REASONS {
            assert!(given.contains(&reason), "{reason} is never given");
        }
        for reason in given {
            assert!(
                REASONS.contains(&reason) || code_words().contains(&reason),
                "{reason} is not in the table"
            );
        }
    }

    fn code_words() -> Vec<&'static str> {
        (0..=16)
            .map(|code| code_name(Code::from_i32(code)))
            .collect()
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let fault = Fault::new(Code::Internal, "PANIC", "ü".repeat(1000));
        assert_eq!(fault.message.len(), 1024);
        assert!(fault.message.chars().all(|c| c == 'ü'));
    }
}

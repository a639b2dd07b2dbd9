//! The bounds of what the edge takes. Everything a client can make grow has one.

use std::time::Duration;

/// Top log probabilities of one token, at most; fewer by configuration.
pub const LOGPROBS_MAX: u32 = 20;
/// Characters of one stop string.
pub const STOP_CHARS_MAX: usize = 256;
/// Stop tokens of one request.
pub const STOP_TOKENS_MAX: usize = 64;
/// Entries of a logit bias.
pub const LOGIT_BIAS_MAX: usize = 1024;
/// Inputs of one embedding request that its encoder holds at once; the others wait at the edge, so
/// that one call does not fill the queue.
pub const EMBED_INPUTS_AT_ONCE: usize = 128;
/// Requests of one embedding stream that are worked on at once.
pub const EMBED_REQUESTS_AT_ONCE: usize = 8;
/// Requests of a stream of `tei.v1` that are worked on at once; each has one input.
pub const TEI_REQUESTS_AT_ONCE: usize = 64;
/// As many, where an answer may be megabytes.
pub const TEI_LARGE_REQUESTS_AT_ONCE: usize = 8;
/// Texts of one `tei.v1.Rerank/RerankStream`.
pub const TEI_RERANK_TEXTS_MAX: usize = 1 << 16;
/// Tokens of one request to turn into text.
pub const DETOKENIZE_TOKENS_MAX: usize = 1 << 20;
/// Characters of a request id, of a tenant and of a cache salt.
pub const ID_CHARS_MAX: usize = 128;
/// The highest priority band; the lowest is its negative.
pub const PRIORITY_MAX: i32 = 100;

/// What happens to an input that has more tokens than its encoder takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooLong {
    /// Its end is cut off.
    Cut,
    /// It is refused.
    Refused,
}

/// Bytes of a question to health or reflection, which nobody needs a key for.
pub const QUESTION_BYTES_MAX: usize = 4 << 10;
/// Calls of health and reflection that run at once on one connection.
pub const LOOKS_MAX: usize = 32;
/// Pages of one connection that are on their way at once.
pub const PAGES_MAX: usize = 4;
/// Bytes of one message that nobody counts while it arrives.
pub const ARRIVING_BYTES_FREE: usize = 16 << 10;
/// The largest messages that may be there in part, all calls together.
const ARRIVING_MESSAGES_MAX: usize = 64;

/// Bytes of all header fields of one request.
pub const HEADER_BYTES_MAX: u32 = 16 << 10;

/// The bounds that the command line sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of text of one request.
    pub input_bytes_max: usize,
    /// Bytes of one message on the wire.
    pub message_bytes_max: usize,
    /// Sequences of one request.
    pub n_max: u32,
    /// Top log probabilities of one token.
    pub logprobs_max: u32,
    /// Stop strings of one request.
    pub stop_strings_max: usize,
    /// Inputs of one embedding request, and texts of one to classify or rank.
    pub embed_inputs_max: usize,
    /// Tokens of one prompt; `None` leaves it to the model.
    pub prompt_tokens_max: Option<u32>,
    /// What happens to an input that is too long, where the request does not say.
    pub too_long: TooLong,
    /// Calls of `Inference` that run or wait at once.
    pub calls_max: usize,
    /// The longest time a call may take.
    pub request_timeout_max: Duration,
    /// The longest time an answer may stay unread. The edge ends what is not taken off its hands,
    /// the engines what the edge does not take off theirs.
    pub stream_stall_timeout: Duration,
    /// The longest time the message of a call may take to arrive.
    pub message_timeout: Duration,
    /// The longest time between two messages of a client's stream.
    pub stream_idle_timeout: Duration,
    /// Connections at once, at each socket.
    pub connections_max: usize,
    /// Connections at once from one IPv4 address or one /64 network of IPv6 addresses.
    pub connections_per_address_max: usize,
    /// Calls at once on one connection.
    pub streams_per_connection_max: u32,
    /// Between two pings on a connection.
    pub keepalive_interval: Duration,
    /// The time a peer has to answer one.
    pub keepalive_timeout: Duration,
    /// The age, give or take a tenth, at which a connection is told to leave.
    pub connection_age_max: Option<Duration>,
    /// The time a new connection has to say what it speaks, a TLS handshake included.
    pub greeting_timeout: Duration,
    /// The time a connection may stay without a call.
    pub connection_idle_timeout: Duration,
    /// The time running calls have after a drain began.
    pub drain_timeout: Duration,
}

impl Limits {
    /// Bytes of messages that are there in part, all calls together, beyond what is free.
    pub(crate) fn arriving_bytes_max(&self) -> usize {
        self.message_bytes_max.saturating_mul(ARRIVING_MESSAGES_MAX)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            input_bytes_max: 1 << 20,
            message_bytes_max: 4 << 20,
            n_max: 16,
            logprobs_max: LOGPROBS_MAX,
            stop_strings_max: 16,
            embed_inputs_max: 1024,
            prompt_tokens_max: None,
            too_long: TooLong::Refused,
            calls_max: 1024,
            request_timeout_max: Duration::from_mins(10),
            stream_stall_timeout: Duration::from_secs(30),
            message_timeout: Duration::from_secs(10),
            stream_idle_timeout: Duration::from_mins(1),
            connections_max: 1024,
            connections_per_address_max: 128,
            streams_per_connection_max: 256,
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            connection_age_max: None,
            greeting_timeout: Duration::from_secs(5),
            connection_idle_timeout: Duration::from_mins(10),
            drain_timeout: Duration::from_mins(1),
        }
    }
}

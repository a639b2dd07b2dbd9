//! What callers say to the scheduler and what they hear back.

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::hash::BlockHash;

/// Microseconds since the engine started. Passed in, never read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(pub u64);

/// A request's identity inside one engine. Given by the engine, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// An index into the vocabulary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Token(pub u32);

impl Token {
    /// Stands in a plan for a token that an earlier, unfinished step will sample. The executor
    /// keeps the last sampled token of each slot and substitutes it.
    pub const PENDING: Token = Token(u32::MAX);
}

/// Whose work it is, for fairness. The engine maps names to these numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(pub u32);

/// A priority band; a higher band is planned first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(pub i8);

/// One prompt to continue. Checked on submission; see [`Reject`].
#[derive(Clone, Debug)]
pub struct Request {
    /// Identity, unique for the life of the scheduler.
    pub id: RequestId,
    /// The prompt's tokens.
    pub prompt: Arc<[Token]>,
    /// Tokens generated in an earlier life of the engine (replay); they count towards
    /// `output_max` and are never reported again. Empty for a new request.
    pub generated: Vec<Token>,
    /// How many tokens may be generated at most.
    pub output_max: NonZeroU32,
    /// The band it belongs to.
    pub priority: Priority,
    /// When it must have ended; nothing of it is planned at or after this time.
    pub deadline: Option<Micros>,
    /// Whose it is.
    pub tenant: TenantId,
    /// The parent hash of its first block: model revision, numerics epoch, adapter and salt.
    /// Requests share cached blocks only when their roots are equal.
    pub root: BlockHash,
}

/// Why a request was refused at submission. After admission nothing can fail in the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// `waiting_max` requests wait already.
    QueueFull {
        /// How many wait.
        waiting: u32,
    },
    /// The tenant has as many requests in flight as one may have.
    ShareFull {
        /// How many it has.
        requests: u32,
        /// The limit.
        requests_max: u32,
    },
    /// So much text of the tenant waits already that this request's would be too much.
    ShareTokensFull {
        /// Tokens to compute of its waiting requests.
        tokens: u64,
        /// The limit.
        tokens_max: u64,
    },
    /// So much text waits already, of all tenants, that this request's would be too much.
    QueueTokensFull {
        /// Tokens to compute of all waiting requests.
        tokens: u64,
        /// The limit.
        tokens_max: u64,
    },
    /// Its first token would probably come too late.
    WaitTooLong {
        /// How long it would probably wait for it.
        wait: Micros,
        /// The limit: the policy's, or the time to its deadline.
        wait_max: Micros,
    },
    /// Prompt and output together exceed `sequence_tokens_max`.
    TooLong {
        /// Prompt plus output tokens asked for.
        tokens: u64,
        /// The limit.
        tokens_max: u32,
    },
    /// Prompt and output together need more KV blocks than the pool has.
    ExceedsPool {
        /// Blocks needed.
        blocks: u64,
        /// Blocks there are.
        blocks_max: u32,
    },
    /// The prompt has no token.
    EmptyPrompt,
    /// The deadline has passed already.
    Expired,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finish {
    /// It sampled a token that ends it.
    Stop,
    /// It reached `output_max`.
    Length,
    /// The caller aborted it.
    Abort,
    /// Its deadline passed.
    Deadline,
    /// The executor could not compute its row (for instance NaN logits).
    Fault,
}

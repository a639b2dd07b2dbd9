//! What async callers hold: a [`Handle`] submits, a [`Tokens`] listens, dropping it aborts.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use scheduler::plan::Stats;
use scheduler::request::{Finish, Priority, Reject, Token};

use crate::executor::{EncodeInput, ExecutorError, TokenLogprob};
use crate::sampling::Sampling;

/// One generation as a caller asks for it.
#[derive(Clone, Debug)]
pub struct Generate {
    /// The prompt's tokens.
    pub prompt: Arc<[Token]>,
    /// How to choose tokens.
    pub sampling: Sampling,
    /// How many tokens at most.
    pub output_max: NonZeroU32,
    /// The band.
    pub priority: Priority,
    /// From now on; `None` has no deadline.
    pub timeout: Option<Duration>,
    /// Whose it is; the empty string is the default tenant.
    pub tenant: String,
    /// Separates prefix-cache entries; requests share blocks only with equal salts.
    pub cache_salt: String,
}

/// Why a call was not taken, or why its answer will not come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The scheduler refused it.
    #[error("refused: {0:?}")]
    Reject(Reject),
    /// The engine is draining; another replica may take it.
    #[error("draining")]
    Draining,
    /// The engine is down or restarting.
    #[error("engine unavailable")]
    Unavailable,
}

/// One generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The token.
    pub token: Token,
    /// ln p(token) under the model's own distribution.
    pub logprob: f32,
    /// The most likely tokens, best first; empty unless asked for.
    pub top: Vec<TokenLogprob>,
}

/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The scheduler ended it.
    Finish(Finish),
    /// The reader left it unread for longer than the stall time-out.
    Stalled,
    /// The engine went down and could not replay it.
    EngineDown,
}

/// Everything that happened since the last call of [`Tokens::next`], coalesced.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Set once, with the first progress: prompt tokens found in the prefix cache.
    pub started: Option<u32>,
    /// New tokens, in order.
    pub tokens: Vec<Generated>,
    /// Set with the last progress.
    pub end: Option<End>,
}

/// The state of an engine as health and load see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Loading or warming up.
    Starting,
    /// Steps complete.
    Serving,
    /// No new work is taken; old work ends.
    Draining,
    /// The executor failed or a step hangs.
    Down,
}

/// Submits work to a decoder's engine. Cheap to clone; the last one dropped drains the engine.
#[derive(Clone, Debug)]
pub struct Handle {}

impl Handle {
    /// Queues a generation. Never blocks: a full queue is an answer.
    pub async fn generate(&self, _request: Generate) -> Result<Tokens, Refusal> {
        Err(Refusal::Unavailable)
    }
    /// The latest counts.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
    /// The engine's state; `changed` awaits the next one.
    pub fn health(&self) -> tokio::sync::watch::Receiver<Health> {
        tokio::sync::watch::channel(Health::Starting).1
    }
    /// Takes no new work from now on; running work goes on.
    pub fn drain(&self) {}
    /// Ends everything that still runs, now.
    pub fn abort_all(&self) {}
}

/// A running generation. Dropping it aborts the request.
#[derive(Debug)]
pub struct Tokens {}

impl Tokens {
    /// Waits for progress; `None` after the end was reported.
    pub async fn next(&mut self) -> Option<Progress> {
        None
    }
}

/// Submits work to an encoder's engine.
#[derive(Clone, Debug)]
pub struct EncodeHandle {}

impl EncodeHandle {
    /// Encodes one input; the vector has the encoder's width and is not normalised.
    /// Dropping the future aborts it.
    pub async fn encode(
        &self,
        _input: EncodeInput,
        _timeout: Option<Duration>,
    ) -> Result<Vec<f32>, EncodeError> {
        Err(EncodeError::Refused(Refusal::Unavailable))
    }
    /// The engine's state.
    pub fn health(&self) -> tokio::sync::watch::Receiver<Health> {
        tokio::sync::watch::channel(Health::Starting).1
    }
    /// Takes no new work from now on.
    pub fn drain(&self) {}
    /// Ends everything that still waits, now.
    pub fn abort_all(&self) {}
    /// Inputs that wait.
    pub fn waiting(&self) -> u32 {
        0
    }
}

/// Why an input was not encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// It was not taken.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Its deadline passed.
    #[error("deadline exceeded")]
    Deadline,
    /// The encoder failed on its batch, or its vector was not finite.
    #[error("encoder failed")]
    Failed,
}

/// Awaits the end of an engine: after a drain, or after it went down for good.
#[derive(Debug)]
pub struct Completion {}

impl Completion {
    /// Returns when the engine's threads have ended: `Ok` after a drain (nothing runs any more),
    /// an error when it could not be started or was restarted too often.
    pub async fn wait(self) -> Result<(), EngineDown> {
        std::future::pending().await
    }
}

/// An engine that is down and stays down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("engine {name} is down: {reason}")]
pub struct EngineDown {
    /// The served name.
    pub name: String,
    /// The last failure.
    pub reason: String,
}

/// Makes executors: once at start, and again after a failure.
pub type Factory<T> = Box<dyn FnMut() -> Result<Box<T>, ExecutorError> + Send>;

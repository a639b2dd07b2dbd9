//! What async callers hold: a [`Handle`] submits, a [`Tokens`] listens, dropping it aborts.

use std::fmt;
use std::future::poll_fn;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use scheduler::plan::Stats;
use scheduler::policy::Weight;
use scheduler::request::{Finish, Priority, Reject, RequestId, Token};
use tokio::sync::{oneshot, watch};

use crate::decoder::Decoder;
use crate::executor::{EncodeInput, Encoded, ExecutorError, TokenLogprob};
use crate::kv_log::KvEvents;
use crate::mailbox::Mailbox;
use crate::run_encoder::EncodeEngine;
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
    /// What its tenant counts from now on beside others.
    pub weight: Weight,
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
    /// How often it gave its KV blocks back and had to be computed again.
    pub preemptions: u32,
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
    /// The executor failed or hung, and another takes over its work. No new work is taken.
    Restarting,
    /// It failed too often, or could not be made. There is no way back.
    Down,
}

/// Submits work to a decoder's engine. Cheap to clone; the last one dropped drains the engine.
#[derive(Clone)]
pub struct Handle {
    owner: Arc<Owner>,
}

/// What all clones of a handle share; its end is the last clone's end.
struct Owner {
    decoder: Arc<Decoder>,
}

impl Handle {
    pub(crate) fn new(decoder: Arc<Decoder>) -> Self {
        let owner = Arc::new(Owner { decoder });
        Self { owner }
    }

    /// Queues a generation and waits for the verdict of the loop: for the step that runs, and for
    /// the restart if that step fails. Never waits for room: a full queue is an answer.
    pub async fn generate(&self, request: Generate) -> Result<Tokens, Refusal> {
        self.submit(request)?.verdict().await
    }

    /// Queues several generations at once, all of them or none, and waits for their verdicts
    /// together. Generations that share a prompt should come this way: it is computed once.
    pub async fn generate_all(
        &self,
        requests: impl IntoIterator<Item = Generate>,
    ) -> Result<Vec<Tokens>, Refusal> {
        let requests = requests.into_iter();
        let asked: Vec<Asked> = requests
            .map(|request| self.submit(request))
            .collect::<Result<_, _>>()?;
        let mut streams = Vec::with_capacity(asked.len());
        for asked in asked {
            streams.push(asked.verdict().await?);
        }
        Ok(streams)
    }

    fn submit(&self, request: Generate) -> Result<Asked, Refusal> {
        let decoder = &self.owner.decoder;
        let (id, mailbox, verdict) = decoder.submit(request)?;
        let tokens = Tokens {
            decoder: Arc::clone(decoder),
            id,
            mailbox,
            ended: false,
        };
        Ok(Asked { verdict, tokens })
    }

    /// Forgets every cached prefix that no sequence uses, before the next step. Returns how many
    /// blocks that freed.
    pub async fn flush_cache(&self) -> Result<u32, Refusal> {
        let (answer, blocks) = oneshot::channel();
        self.owner.decoder.inbox.flush(answer)?;
        blocks.await.map_err(|_| Refusal::Unavailable)
    }

    /// What changes in the prefix cache: from the event of this number on, as far as it is kept, or
    /// from now on.
    pub fn kv_events(&self, from: Option<u64>) -> KvEvents {
        KvEvents::new(Arc::clone(&self.owner.decoder.kv_log), from)
    }

    /// The latest counts.
    pub fn stats(&self) -> Stats {
        self.owner.decoder.stats()
    }

    /// The engine's state; `changed` awaits the next one.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.owner.decoder.frame.health.subscribe()
    }

    /// Takes no new work from now on; running work goes on. [`Completion::wait`] awaits its end.
    pub fn drain(&self) {
        self.owner.drain();
    }

    /// Ends everything that still runs or waits, before the next step.
    pub fn abort_all(&self) {
        self.owner.decoder.inbox.abort_all();
        self.owner.decoder.frame.wake();
    }
}

/// A generation in the inbox. Dropping it aborts the request.
struct Asked {
    // Dropped first: whoever sees the abort of `tokens` sees that nobody waits for the verdict.
    verdict: oneshot::Receiver<Result<(), Refusal>>,
    tokens: Tokens,
}

impl Asked {
    async fn verdict(self) -> Result<Tokens, Refusal> {
        let Self {
            mut tokens,
            verdict,
        } = self;
        let result = verdict.await.unwrap_or(Err(Refusal::Unavailable));
        // Who was refused has nothing to abort.
        tokens.ended = result.is_err();
        result.map(|()| tokens)
    }
}

impl Owner {
    fn drain(&self) {
        self.decoder.inbox.drain();
        self.decoder.frame.drain();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.drain();
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("name", &self.owner.decoder.frame.name)
            .finish_non_exhaustive()
    }
}

/// A running generation. Dropping it aborts the request.
///
/// Progress coalesces while it is not read: at most `output_max` tokens wait here, and the engine
/// never waits. A stream left unread for longer than the stall time-out ends with [`End::Stalled`];
/// its tokens so far can still be read.
pub struct Tokens {
    decoder: Arc<Decoder>,
    id: RequestId,
    mailbox: Arc<Mailbox>,
    /// The end was read, or there was no beginning.
    ended: bool,
}

impl Tokens {
    /// Waits for progress; `None` after the end was reported. Safe to cancel.
    pub async fn next(&mut self) -> Option<Progress> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// Ends the request because it has said all that was wanted, as a stop string does. Counted as
    /// [`Finish::Stop`], where dropping is counted as a caller who went away.
    pub fn stop(mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.decoder.inbox.stop(self.id);
        }
    }

    /// As [`Tokens::next`], for callers that are streams themselves.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Progress>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.mailbox.poll(context).map(|progress| {
            self.ended = progress.end.is_some();
            Some(progress)
        })
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        if !self.ended {
            self.decoder.inbox.abort(self.id);
        }
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("id", &self.id)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// Submits work to an encoder's engine. Cheap to clone; the last one dropped drains the engine.
#[derive(Clone)]
pub struct EncodeHandle {
    owner: Arc<EncodeOwner>,
}

/// What all clones of a handle share; its end is the last clone's end.
struct EncodeOwner {
    engine: Arc<EncodeEngine>,
}

impl EncodeHandle {
    pub(crate) fn new(engine: Arc<EncodeEngine>) -> Self {
        let owner = Arc::new(EncodeOwner { engine });
        Self { owner }
    }

    /// Encodes one input; what comes back has the shape that its output says.
    /// Dropping the future aborts it.
    pub async fn encode(
        &self,
        input: EncodeInput,
        timeout: Option<Duration>,
    ) -> Result<Encoded, EncodeError> {
        let (encoded, _) = self.encode_timed(input, timeout).await?;
        Ok(encoded)
    }

    /// As [`EncodeHandle::encode`], and where the time went.
    pub async fn encode_timed(
        &self,
        input: EncodeInput,
        timeout: Option<Duration>,
    ) -> Result<(Encoded, EncodeTimes), EncodeError> {
        let engine = &self.owner.engine;
        let (id, answer) = engine.submit(input, timeout)?;
        let mut waiting = WaitingInput {
            engine,
            id,
            answered: false,
        };
        let answer = answer.await;
        waiting.answered = true;
        answer.unwrap_or(Err(EncodeError::Refused(Refusal::Unavailable)))
    }

    /// The engine's state.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.owner.engine.frame.health.subscribe()
    }

    /// Takes no new work from now on. [`Completion::wait`] awaits the end of the old.
    pub fn drain(&self) {
        self.owner.drain();
    }

    /// Ends everything that still waits with [`Refusal::Draining`], before the next batch.
    pub fn abort_all(&self) {
        self.owner.engine.inbox.abort_all();
        self.owner.engine.frame.wake();
    }

    /// Inputs that wait.
    pub fn waiting(&self) -> u32 {
        self.owner.engine.waiting()
    }
}

impl EncodeOwner {
    fn drain(&self) {
        self.engine.inbox.drain();
        self.engine.frame.drain();
    }
}

impl Drop for EncodeOwner {
    fn drop(&mut self) {
        self.drain();
    }
}

impl fmt::Debug for EncodeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncodeHandle")
            .field("name", &self.owner.engine.frame.name)
            .finish_non_exhaustive()
    }
}

/// Aborts its input when the caller goes away before the answer.
struct WaitingInput<'a> {
    engine: &'a EncodeEngine,
    id: RequestId,
    answered: bool,
}

impl Drop for WaitingInput<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.engine.inbox.abort(self.id);
        }
    }
}

/// Where the time of an encoded input went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeTimes {
    /// From its submission to its batch.
    pub queued: Duration,
    /// Its batch.
    pub computed: Duration,
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
    /// The encoder failed on its batch, or its result was not finite.
    #[error("encoder failed")]
    Failed,
}

/// Awaits the end of an engine: after a drain, or after it went down for good. Dropping it changes
/// nothing: the engine ends by itself when its last handle is dropped and its work is done.
#[derive(Debug)]
pub struct Completion {
    name: String,
    result: oneshot::Receiver<Result<(), EngineDown>>,
}

impl Completion {
    pub(crate) fn new(name: String, result: oneshot::Receiver<Result<(), EngineDown>>) -> Self {
        Self { name, result }
    }

    /// Returns when the engine's threads have ended (but for one that hangs): `Ok` after a drain
    /// (nothing runs any more, the executor is dropped), an error when it could not be started or
    /// failed too often.
    pub async fn wait(self) -> Result<(), EngineDown> {
        let no_supervisor = EngineDown {
            name: self.name,
            reason: "its supervisor ended".to_owned(),
        };
        self.result.await.unwrap_or(Err(no_supervisor))
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

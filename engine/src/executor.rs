//! The boundary to whatever computes: [`Executor`] for decoders, [`Encoder`] for encoders.

use std::fmt;
use std::sync::Arc;

use scheduler::limits::Pool;
use scheduler::plan::Plan;
use scheduler::request::{RequestId, Token};

use crate::sampling::Sampling;

/// A failure of the device or of the executor itself. It is terminal for this executor: the
/// engine drops it, makes a new one and replays what was in flight.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// The device or host ran out of memory.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// Anything else.
    #[error("executor failed: {0}")]
    Failed(String),
}

/// One candidate token and its natural logarithm of probability, after temperature and penalties
/// were left aside (the model's own distribution, as vLLM's `raw_logprobs`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    /// Which token.
    pub token: Token,
    /// ln p(token).
    pub logprob: f32,
}

/// What one sampled row gave.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    /// A token was drawn.
    Token {
        /// The token drawn and its log probability.
        drawn: TokenLogprob,
        /// The `logprobs` most likely tokens, best first; empty when none were asked for.
        top: Vec<TokenLogprob>,
    },
    /// The logits were not finite.
    NotFinite,
}

/// The rows of one step: one for each slice with `samples`, in plan order. Reused.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// The step they answer.
    pub step: u64,
    /// Whose row, and what it gave.
    pub rows: Vec<(RequestId, Row)>,
}

/// Through it an executor tells the watchdog that a long step gets on. By default nobody listens.
#[derive(Clone, Default)]
pub struct Progress(Option<Arc<dyn Fn() + Send + Sync>>);

impl Progress {
    pub(crate) fn new(heard: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(heard)))
    }

    /// A part of the step is done: a layer, a chunk. Costs a look at the clock.
    pub fn made(&self) {
        if let Some(heard) = &self.0 {
            heard();
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").finish_non_exhaustive()
    }
}

/// Computes plans for one decoder. Owned and called by the engine thread alone.
pub trait Executor: Send {
    /// The KV memory it holds.
    fn pool(&self) -> Pool;
    /// Hands over, once and before anything else, where to tell of progress within steps. An
    /// executor whose steps may take longer than the step time-out tells of every layer.
    fn report_to(&mut self, progress: Progress) {
        drop(progress);
    }
    /// Announces a request before the first plan that names it. `generated` are tokens of an
    /// earlier life (replay); they count for penalties and for the position of the next draw.
    fn admit(
        &mut self,
        id: RequestId,
        sampling: &Arc<Sampling>,
        prompt: &Arc<[Token]>,
        generated: &[Token],
    );
    /// Starts a step and returns before it is computed: the last step's tokens go to their readers
    /// meanwhile. Steps complete in launch order.
    fn launch(&mut self, plan: &Plan) -> Result<(), ExecutorError>;
    /// Waits for the oldest launched step, or computes it, and fills `rows` with what it sampled.
    fn wait(&mut self, rows: &mut Rows) -> Result<(), ExecutorError>;
    /// Forgets a request. Its id is never used again.
    fn release(&mut self, id: RequestId);
}

/// How one vector is made of an input's token vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The first token's vector.
    Cls,
    /// The mean over all tokens.
    Mean,
    /// The last token's vector.
    LastToken,
}

/// One input of an encoder: its tokens, special ones included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodeInput {
    /// The tokens.
    pub tokens: Arc<[Token]>,
    /// Segment ids, one a token; empty means all zero.
    pub segments: Arc<[u8]>,
    /// How to pool.
    pub pooling: Pooling,
}

/// Computes batches for one encoder. Owned and called by the engine thread alone.
pub trait Encoder: Send {
    /// Values of one output vector.
    fn width(&self) -> u32;
    /// As [`Executor::report_to`], for batches.
    fn report_to(&mut self, progress: Progress) {
        drop(progress);
    }
    /// Encodes `inputs` (packed, not padded) and writes one vector an input to `vectors`,
    /// row-major `[inputs, width]`, not normalised.
    fn encode(
        &mut self,
        inputs: &[EncodeInput],
        vectors: &mut Vec<f32>,
    ) -> Result<(), ExecutorError>;
}

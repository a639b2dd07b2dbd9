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
    /// meanwhile. Steps complete in launch order. A step's copies come first, one after the other.
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

/// What is wanted of one input. Every encoder gives the first two; the others need a head, and to
/// ask for them without it is the caller's mistake, which costs a life of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Output {
    /// One vector of the whole input, not normalised.
    Pooled(Pooling),
    /// One vector a token, special ones included, not normalised.
    Tokens,
    /// The scores of a classifier's labels, before softmax or sigmoid. One label is a reranker's.
    Scores,
    /// The weights of the vocabulary's words, by a masked language model's head (SPLADE).
    Sparse,
}

/// One input of an encoder: its tokens, special ones included, and what is wanted of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodeInput {
    /// The tokens.
    pub tokens: Arc<[Token]>,
    /// Segment ids, one a token; empty means all zero. A network takes ids above its last segment
    /// for the last, and one without segments takes none.
    pub segments: Arc<[u8]>,
    /// What is wanted.
    pub output: Output,
}

/// What an encoder made of one input.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoded {
    /// Rows of `width` values; of a sparse vector only the values that are not zero.
    pub values: Vec<f32>,
    /// Values of a row: of a vector, of the scores, of the vocabulary.
    pub width: u32,
    /// The place of each value in a sparse vector, ascending; empty for all other outputs.
    pub places: Vec<u32>,
}

impl Encoded {
    /// The rows: one, but for [`Output::Tokens`]. A sparse vector has none.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        let rows = if self.places.is_empty() {
            self.values.as_slice()
        } else {
            &[]
        };
        rows.chunks_exact(self.width.max(1) as usize)
    }

    /// The places and values of a sparse vector.
    pub fn sparse(&self) -> impl ExactSizeIterator<Item = (u32, f32)> {
        let values = self.values.iter().copied();
        self.places.iter().copied().zip(values)
    }

    /// Whether this can be what was wanted of `input`.
    pub(crate) fn fits(&self, input: &EncodeInput) -> bool {
        let (values, width) = (self.values.len(), self.width as usize);
        let dense = self.places.is_empty();
        match input.output {
            Output::Pooled(_) | Output::Scores => dense && width > 0 && values == width,
            Output::Tokens => dense && width > 0 && values == width * input.tokens.len(),
            Output::Sparse => {
                let ascending = self.places.is_sorted_by(|a, b| a < b);
                let inside = self.places.last().is_none_or(|&last| last < self.width);
                values == self.places.len() && ascending && inside
            }
        }
    }
}

/// Computes batches for one encoder. Owned and called by the engine thread alone.
pub trait Encoder: Send {
    /// As [`Executor::report_to`], for batches.
    fn report_to(&mut self, progress: Progress) {
        drop(progress);
    }
    /// Encodes `inputs` (packed, not padded) and appends one result an input, in their order. Each
    /// has its own memory, which goes to its reader as it is: a batch's results take at most its
    /// tokens times the width, where token vectors are wanted of all inputs.
    fn encode(
        &mut self,
        inputs: &[EncodeInput],
        encoded: &mut Vec<Encoded>,
    ) -> Result<(), ExecutorError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(output: Output) -> EncodeInput {
        EncodeInput {
            tokens: [Token(1), Token(2)].into(),
            segments: Arc::default(),
            output,
        }
    }

    fn encoded(values: usize, width: u32, places: &[u32]) -> Encoded {
        Encoded {
            values: vec![1.0; values],
            width,
            places: places.to_vec(),
        }
    }

    #[test]
    fn a_result_fits_what_was_wanted() {
        let fits = |output, encoded: Encoded| encoded.fits(&input(output));
        for output in [Output::Pooled(Pooling::Cls), Output::Scores] {
            assert!(fits(output, encoded(3, 3, &[])));
            assert!(!fits(output, encoded(6, 3, &[])));
            assert!(!fits(output, encoded(0, 0, &[])));
            assert!(!fits(output, encoded(3, 3, &[0, 1, 2])));
        }
        assert!(fits(Output::Tokens, encoded(6, 3, &[])));
        assert!(!fits(Output::Tokens, encoded(3, 3, &[])));
        assert!(fits(Output::Sparse, encoded(2, 8, &[3, 7])));
        assert!(fits(Output::Sparse, encoded(0, 8, &[])));
        for places in [&[7, 3][..], &[3, 3], &[3, 8], &[3]] {
            assert!(!fits(Output::Sparse, encoded(2, 8, places)), "{places:?}");
        }
    }

    #[test]
    fn rows_and_places_are_read_apart() {
        assert_eq!(encoded(6, 3, &[]).rows().len(), 2);
        assert_eq!(encoded(2, 8, &[3, 7]).rows().len(), 0);
        let sparse = encoded(2, 8, &[3, 7]);
        let pairs: Vec<_> = sparse.sparse().map(|(place, _)| place).collect();
        assert_eq!(pairs, [3, 7]);
    }
}

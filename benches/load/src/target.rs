//! What is put under load: anything that streams tokens.

use std::time::Duration;

use crate::plan::Ask;

/// A server and the connections to it.
pub trait Target: Send + Sync + 'static {
    /// The answer to a generation; dropping it leaves the request.
    type Pieces: Pieces;

    /// Asks for a generation over the connection of this number, modulo their count.
    fn generate(
        &self,
        connection: usize,
        ask: &Ask,
    ) -> impl Future<Output = Result<Self::Pieces, Failure>> + Send;

    /// Asks for vectors.
    fn embed(
        &self,
        connection: usize,
        ask: &Ask,
    ) -> impl Future<Output = Result<Embedded, Failure>> + Send;
}

/// A generation that runs.
pub trait Pieces: Send {
    /// What comes next; `None` after the last.
    fn next(&mut self) -> impl Future<Output = Result<Option<Piece>, Failure>> + Send;
}

/// A part of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// It has begun.
    Started,
    /// This many more tokens, in one message.
    Tokens(u32),
    /// It is over, and cost this.
    Finished(Cost),
}

/// What a generation cost, as its server counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// How many of them came from the prefix cache.
    pub cached_tokens: u32,
}

/// The answer to an embedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Embedded {
    /// Vectors in it.
    pub vectors: u32,
    /// Tokens of the texts.
    pub prompt_tokens: u32,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The gRPC code in capitals, or what stands for it.
    pub code: String,
    /// The reason in the error's details; empty if there is none.
    pub reason: String,
    /// When the server says to come back.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// The answer did not come in the time that the generator gives it.
    pub(crate) fn overdue() -> Self {
        Self {
            code: "TIMEOUT".to_owned(),
            reason: "not answered in --timeout".to_owned(),
            retry_after: None,
        }
    }

    /// Whether a deadline ended it.
    pub(crate) fn is_deadline(&self) -> bool {
        self.code == "DEADLINE_EXCEEDED"
    }
}

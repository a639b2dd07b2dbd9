//! Batches for encoders (embedding, rerank, classify): no KV, one pass, a token budget.

use crate::request::{Micros, Reject, RequestId};

/// The bounds of an encoder's batcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeLimits {
    /// Tokens in one batch, all inputs together.
    pub batch_tokens_max: u32,
    /// Inputs in one batch.
    pub batch_inputs_max: u32,
    /// Inputs that wait at once.
    pub waiting_max: u32,
    /// Tokens of one input.
    pub input_tokens_max: u32,
}

/// Why an input left without having been computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Its deadline passed in the queue.
    Deadline(RequestId),
}

/// Groups waiting inputs into batches of similar length within a token budget.
#[derive(Debug)]
pub struct EncodeBatcher {
    limits: EncodeLimits,
}

impl EncodeBatcher {
    /// An empty batcher.
    pub fn new(limits: EncodeLimits) -> Self {
        Self { limits }
    }
    /// Queues an input of `tokens` tokens, or says why not.
    pub fn submit(
        &mut self,
        _id: RequestId,
        _tokens: u32,
        _deadline: Option<Micros>,
        _now: Micros,
    ) -> Result<(), Reject> {
        unimplemented!("{:?}", self.limits)
    }
    /// Removes a waiting input. Returns whether it waited.
    pub fn abort(&mut self, _id: RequestId) -> bool {
        unimplemented!()
    }
    /// Takes the next batch, sorted by length; expired inputs go to `dropped`.
    pub fn plan(&mut self, _now: Micros, _batch: &mut Vec<RequestId>, _dropped: &mut Vec<Dropped>) {
        unimplemented!()
    }
    /// How many inputs wait.
    pub fn waiting(&self) -> u32 {
        0
    }
}

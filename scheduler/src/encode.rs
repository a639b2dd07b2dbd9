//! Batches for encoders (embedding, rerank, classify): no KV, one pass, a token budget.
//!
//! A batch is built around the input that has waited longest, out of the waiting inputs whose
//! lengths are nearest to its length. So lengths in a batch are similar, and nobody starves:
//! every input becomes the oldest one in the end.

use std::collections::{BTreeMap, BTreeSet};

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
    /// Tokens of one input; no more than `batch_tokens_max` counts.
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
    /// Waiting inputs by arrival.
    waiting: BTreeMap<Arrival, Input>,
    by_length: BTreeSet<(u32, Arrival)>,
    by_id: BTreeMap<RequestId, Arrival>,
    deadlines: BTreeSet<(Micros, Arrival)>,
    arrivals: u64,
    /// The batch in the making, reused.
    chosen: Vec<(u32, Arrival)>,
}

/// The number of a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Arrival(u64);

#[derive(Clone, Copy, Debug)]
struct Input {
    id: RequestId,
    tokens: u32,
    deadline: Option<Micros>,
}

impl EncodeBatcher {
    /// An empty batcher.
    pub fn new(limits: EncodeLimits) -> Self {
        assert!(
            limits.batch_tokens_max > 0,
            "a batch holds at least one token"
        );
        assert!(
            limits.batch_inputs_max > 0,
            "a batch holds at least one input"
        );
        Self {
            limits,
            waiting: BTreeMap::new(),
            by_length: BTreeSet::new(),
            by_id: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            arrivals: 0,
            chosen: Vec::new(),
        }
    }

    /// Queues an input of `tokens` tokens, or says why not. Its id must not be waiting already.
    pub fn submit(
        &mut self,
        id: RequestId,
        tokens: u32,
        deadline: Option<Micros>,
        now: Micros,
    ) -> Result<(), Reject> {
        let tokens_max = self
            .limits
            .input_tokens_max
            .min(self.limits.batch_tokens_max);
        if tokens == 0 {
            return Err(Reject::EmptyPrompt);
        }
        if deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Reject::Expired);
        }
        if tokens > tokens_max {
            return Err(Reject::TooLong {
                tokens: u64::from(tokens),
                tokens_max,
            });
        }
        if self.waiting() >= self.limits.waiting_max {
            return Err(Reject::QueueFull {
                waiting: self.waiting(),
            });
        }
        self.arrivals += 1;
        let arrival = Arrival(self.arrivals);
        let before = self.by_id.insert(id, arrival);
        assert!(before.is_none(), "{id:?} is submitted twice");
        self.waiting.insert(
            arrival,
            Input {
                id,
                tokens,
                deadline,
            },
        );
        self.by_length.insert((tokens, arrival));
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, arrival));
        }
        Ok(())
    }

    /// Removes a waiting input. Returns whether it waited.
    pub fn abort(&mut self, id: RequestId) -> bool {
        let Some(&arrival) = self.by_id.get(&id) else {
            return false;
        };
        self.remove(arrival);
        true
    }

    /// Takes the next batch into `batch`, sorted by length; the ids of expired inputs are added
    /// to `dropped`. The batch is empty only when nothing waits.
    pub fn plan(&mut self, now: Micros, batch: &mut Vec<RequestId>, dropped: &mut Vec<Dropped>) {
        batch.clear();
        while let Some(&(deadline, arrival)) = self.deadlines.first()
            && deadline <= now
        {
            dropped.push(Dropped::Deadline(self.remove(arrival).id));
        }
        let mut chosen = std::mem::take(&mut self.chosen);
        self.choose(&mut chosen);
        chosen.sort_unstable();
        for &(_, arrival) in &chosen {
            batch.push(self.remove(arrival).id);
        }
        chosen.clear();
        self.chosen = chosen;
    }

    /// How many inputs wait.
    pub fn waiting(&self) -> u32 {
        self.waiting.len() as u32
    }

    /// The earliest deadline of any waiting input, for the engine's timer.
    pub fn deadline(&self) -> Option<Micros> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// The oldest input and those nearest to it in length, as many as fit.
    fn choose(&self, chosen: &mut Vec<(u32, Arrival)>) {
        let Some((&arrival, oldest)) = self.waiting.first_key_value() else {
            return;
        };
        let seed = (oldest.tokens, arrival);
        let mut budget = self.limits.batch_tokens_max - seed.0;
        chosen.push(seed);
        let mut shorter = self.by_length.range(..seed).rev().peekable();
        let mut longer = self
            .by_length
            .range((seed.0, Arrival(arrival.0 + 1))..)
            .peekable();
        while chosen.len() < self.limits.batch_inputs_max as usize {
            // Everything after a longer one that does not fit is longer still.
            let up = longer
                .peek()
                .filter(|input| input.0 <= budget)
                .map(|input| input.0 - seed.0);
            let down = shorter.peek().map(|input| seed.0 - input.0);
            let next = match (down, up) {
                (None, None) => return,
                (Some(down), Some(up)) if down < up => shorter.next(),
                (Some(_), None) => shorter.next(),
                _ => longer.next(),
            };
            let Some(&input) = next else { return };
            if input.0 <= budget {
                budget -= input.0;
                chosen.push(input);
            }
        }
    }

    fn remove(&mut self, arrival: Arrival) -> Input {
        let Some(input) = self.waiting.remove(&arrival) else {
            unreachable!("an input is removed twice");
        };
        self.by_id.remove(&input.id);
        self.by_length.remove(&(input.tokens, arrival));
        if let Some(deadline) = input.deadline {
            self.deadlines.remove(&(deadline, arrival));
        }
        input
    }
}

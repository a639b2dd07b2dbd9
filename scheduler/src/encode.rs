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

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: EncodeLimits = EncodeLimits {
        batch_tokens_max: 20,
        batch_inputs_max: 4,
        waiting_max: 6,
        input_tokens_max: 16,
    };

    fn filled(lengths: &[u32]) -> EncodeBatcher {
        let mut batcher = EncodeBatcher::new(EncodeLimits {
            waiting_max: 1000,
            ..LIMITS
        });
        for (id, &tokens) in lengths.iter().enumerate() {
            batcher
                .submit(RequestId(id as u64), tokens, None, Micros(0))
                .unwrap();
        }
        batcher
    }

    fn next(batcher: &mut EncodeBatcher) -> Vec<u64> {
        let (mut batch, mut dropped) = (Vec::new(), Vec::new());
        batcher.plan(Micros(0), &mut batch, &mut dropped);
        assert_eq!(dropped, []);
        batch.iter().map(|id| id.0).collect()
    }

    #[test]
    fn a_batch_is_built_around_the_oldest_input() {
        // Nearest to 5 are 6, 4 and 2; with 6 + 4 + 5 = 15 the next, 9, does not fit.
        let mut batcher = filled(&[5, 16, 6, 2, 4, 9]);
        assert_eq!(next(&mut batcher), [3, 4, 0, 2]);
        assert_eq!(next(&mut batcher), [1]);
        assert_eq!(next(&mut batcher), [5]);
        assert_eq!(next(&mut batcher), []);
    }

    #[test]
    fn a_batch_keeps_both_bounds() {
        let mut batcher = filled(&[1, 1, 1, 1, 1, 10, 10, 10]);
        assert_eq!(next(&mut batcher), [0, 1, 2, 3]);
        assert_eq!(next(&mut batcher), [4, 5]);
        assert_eq!(next(&mut batcher), [6, 7]);
        assert_eq!(batcher.waiting(), 0);
    }

    #[test]
    fn nobody_starves_beside_a_stream_of_other_lengths() {
        let mut batcher = filled(&[16]);
        let mut id = 1;
        for round in 0..10 {
            for _ in 0..4 {
                batcher.submit(RequestId(id), 2, None, Micros(0)).unwrap();
                id += 1;
            }
            if next(&mut batcher).contains(&0) {
                assert_eq!(round, 0, "the oldest is always in the next batch");
                return;
            }
        }
        panic!("the long input starves");
    }

    #[test]
    fn what_cannot_be_computed_is_refused() {
        let mut batcher = EncodeBatcher::new(LIMITS);
        let mut submit = |id, tokens, deadline: Option<u64>| {
            batcher.submit(RequestId(id), tokens, deadline.map(Micros), Micros(10))
        };
        assert_eq!(submit(0, 0, None), Err(Reject::EmptyPrompt));
        assert_eq!(
            submit(1, 17, None),
            Err(Reject::TooLong {
                tokens: 17,
                tokens_max: 16
            })
        );
        assert_eq!(submit(2, 1, Some(10)), Err(Reject::Expired));
        for id in 3..9 {
            assert_eq!(submit(id, 1, None), Ok(()));
        }
        assert_eq!(submit(9, 1, None), Err(Reject::QueueFull { waiting: 6 }));
    }

    #[test]
    fn expired_and_aborted_inputs_leave() {
        let mut batcher = EncodeBatcher::new(LIMITS);
        for (id, deadline) in [(0, Some(5)), (1, None), (2, Some(6)), (3, None)] {
            batcher
                .submit(RequestId(id), 3, deadline.map(Micros), Micros(0))
                .unwrap();
        }
        assert_eq!(batcher.deadline(), Some(Micros(5)));
        assert!(batcher.abort(RequestId(1)));
        assert!(!batcher.abort(RequestId(1)));
        let (mut batch, mut dropped) = (Vec::new(), Vec::new());
        batcher.plan(Micros(5), &mut batch, &mut dropped);
        assert_eq!(dropped, [Dropped::Deadline(RequestId(0))]);
        assert_eq!(batch, [RequestId(2), RequestId(3)]);
        assert_eq!((batcher.waiting(), batcher.deadline()), (0, None));
    }
}

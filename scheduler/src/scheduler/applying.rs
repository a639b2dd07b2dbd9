//! `apply`: what the answer to a step changes.

use crate::plan::{Event, Outcome, Sampled};
use crate::prefix::Key;
use crate::request::{Finish, Micros};

use super::{Row, Scheduler};

impl Scheduler {
    /// Takes the answer to the oldest step not yet applied. Rows of requests that ended in the
    /// meantime are dropped; the token of one that was preempted is kept. Requests whose deadline
    /// has passed end here.
    pub fn apply(&mut self, outcome: &Outcome, now: Micros, events: &mut Vec<Event>) {
        let Some(mut flight) = self.flights.pop_front() else {
            unreachable!(
                "an outcome for step {} comes and none is in flight",
                outcome.step
            );
        };
        assert!(
            flight.step == outcome.step,
            "steps are applied in the order of their plans"
        );
        let mut sampled = outcome.sampled.iter();
        for &row in &flight.rows {
            let result = if row.samples {
                let Some(&(id, result)) = sampled.next() else {
                    unreachable!("the outcome of step {} misses {:?}", outcome.step, row.id);
                };
                assert!(
                    id == row.id,
                    "the outcome of step {} is out of order",
                    outcome.step
                );
                Some(result)
            } else {
                None
            };
            self.apply_row(row, result, events);
        }
        assert!(
            sampled.next().is_none(),
            "step {} sampled rows nobody planned",
            outcome.step
        );
        flight.rows.clear();
        self.spare_rows.push(flight.rows);
        self.applied = outcome.step;
        self.lift_fences();
        let applied = self.applied;
        self.promises.retain(|&(step, _)| step > applied);
        self.expire(now, events);
        self.check_when_idle();
    }

    fn apply_row(&mut self, row: Row, result: Option<Sampled>, events: &mut Vec<Event>) {
        let index = row.sequence.index;
        let Some(sequence) = self.sequences.get_mut(index, row.id) else {
            return;
        };
        if result == Some(Sampled::Fault) {
            self.distrust(index);
            self.end(index, Finish::Fault, events);
            return;
        }
        let runs = sequence.stamp == row.sequence.stamp;
        let was_prompt = runs && row.samples && row.end - sequence.computed > 1;
        if runs {
            sequence.computed = row.end;
        }
        let mut finish = None;
        if let Some(Sampled::Token(token) | Sampled::Last(token)) = result {
            sequence.pending -= 1;
            sequence.push(token);
            events.push(Event::Token { id: row.id, token });
            self.queue.charge_output(sequence.account);
            if matches!(result, Some(Sampled::Last(_))) {
                finish = Some(Finish::Stop);
            } else if sequence.known == sequence.known_max {
                finish = Some(Finish::Length);
            }
        }
        if runs && sequence.has_unpublished(self.kv.block_tokens()) {
            self.publish(index);
        }
        if was_prompt {
            self.lend_tail(index);
        }
        if let Some(finish) = finish {
            self.end(index, finish, events);
        }
    }

    /// Publishes the blocks of a running sequence that are full and computed by now.
    fn publish(&mut self, index: u32) {
        let block_tokens = self.kv.block_tokens();
        let sequence = self.sequences.at_mut(index);
        while sequence.has_unpublished(block_tokens) {
            let at = sequence.published;
            let start = at * block_tokens;
            self.block_text.clear();
            sequence.copy_tokens(start..start + block_tokens, &mut self.block_text);
            let tokens = &self.block_text;
            let before = sequence.cold.hash;
            let hash = sequence.hash_at(at, tokens, before, self.hasher.as_ref());
            // A prompt's next chunk promises what follows on these.
            if at as usize == sequence.cold.hashes.len()
                && start < sequence.cold.prompt.len() as u32
            {
                sequence.cold.hashes.push(hash);
            }
            let parent = sequence.cold.parent;
            let key = Key {
                hash,
                parent,
                tokens,
            };
            let before = (at > 0).then_some(before);
            let content = self.kv.publish(sequence.table[at as usize], key, before);
            sequence.cold.hash = hash;
            sequence.cold.parent = parent.followed_by(content);
            sequence.published += 1;
        }
    }

    /// Lets others copy the last block of a prompt, which is not full: siblings that begin with the
    /// same prompt, and whoever says the same a little longer.
    fn lend_tail(&mut self, index: u32) {
        let sequence = self.sequences.at(index);
        let start = sequence.published * self.kv.block_tokens();
        if start == sequence.computed {
            return;
        }
        self.block_text.clear();
        sequence.copy_tokens(start..sequence.computed, &mut self.block_text);
        let block = sequence.table[sequence.published as usize];
        self.kv
            .lend_tail(block, sequence.cold.parent, &self.block_text);
    }

    /// Unpublishes every block of a sequence whose row could not be computed: what made it fail
    /// may stand in any of them.
    fn distrust(&mut self, index: u32) {
        for &block in &self.sequences.at(index).table {
            self.kv.distrust(block);
        }
    }

    /// Frees what only applied steps were using.
    fn lift_fences(&mut self) {
        while let Some(fence) = self.fences.front()
            && fence.step <= self.applied
        {
            self.kv.release(&fence.table);
            self.slots.push(fence.slot);
            self.fences.pop_front();
        }
    }
}

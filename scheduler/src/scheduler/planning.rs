//! `plan`: what the next step computes.

use std::ops::Range;

use crate::cost::StepLoad;
use crate::kv::Kv;
use crate::pace::Pace;
use crate::plan::{BlockCopy, Event, Plan, Slice, SlotId};
use crate::prefix::{Key, Parent};
use crate::queue::Waiter;
use crate::request::{Finish, Micros};
use crate::sequence::{Handle, Sequence};

use super::{Flight, Row, Scheduler};

/// Whether memory ran out while running sequences were served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pressure {
    None,
    /// Somebody was preempted or has to wait for blocks behind the fence.
    OutOfBlocks,
}

/// What came of an attempt to make a block available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Made,
    /// Blocks are coming, once a step in flight is applied.
    Later,
    /// The sequence that asked was preempted itself.
    Gone,
}

/// A plan in the making.
struct Draft<'a> {
    plan: &'a mut Plan,
    rows: Vec<Row>,
    /// Positions that may still be added.
    budget: u32,
    load: StepLoad,
    pace: Pace,
}

impl Scheduler {
    /// Fills `plan` with the next step; an empty plan means there is nothing to compute now, and
    /// is not to be applied. Requests whose deadline has passed end here.
    ///
    /// At most `depth_max` steps may be planned and not applied.
    pub fn plan(&mut self, now: Micros, plan: &mut Plan, events: &mut Vec<Event>) {
        assert!(
            (self.flights.len() as u32) < self.limits.depth_max,
            "apply the step in flight before planning another"
        );
        plan.clear();
        plan.step = self.planned + 1;
        for (id, finish) in self.ended.drain(..) {
            events.push(Event::Finished { id, finish });
        }
        self.expire(now, events);
        self.check_sometimes();
        self.sweep();
        let rows = self.spare_rows.pop().unwrap_or_default();
        let mut draft = Draft {
            plan,
            rows,
            budget: self.limits.step_tokens_max,
            load: StepLoad::default(),
            pace: Pace::default(),
        };
        let pressure = self.plan_decodes(&mut draft, events);
        if draft.load.rows > 0 {
            self.decodes = draft.load;
        }
        draft.pace = Pace::new(self.policy.step_target, &self.costs, draft.load);
        self.plan_prompts(&mut draft);
        if pressure == Pressure::None {
            self.admit(&mut draft, events);
        } else {
            self.blocks_short = true;
        }
        let Draft {
            plan, rows, load, ..
        } = draft;
        if plan.is_empty() {
            let stuck = self.sequences.len() > 0 && self.flights.is_empty();
            assert!(!stuck, "requests wait or run and nothing can be computed");
            self.spare_rows.push(rows);
            return;
        }
        self.planned += 1;
        self.flights.push_back(Flight {
            step: self.planned,
            load,
            rows,
        });
    }

    /// Ends every request whose deadline is not after `now`.
    pub(super) fn expire(&mut self, now: Micros, events: &mut Vec<Event>) {
        while let Some(&(deadline, index)) = self.deadlines.first()
            && deadline <= now
        {
            self.end(index, Finish::Deadline, events);
        }
    }

    /// Removes ended sequences from the running ones.
    fn sweep(&mut self) {
        if self.running.len() != self.running_count as usize {
            self.running
                .retain(|&handle| self.sequences.is_current(handle));
        }
        assert!(
            self.running.len() == self.running_count as usize,
            "a running sequence is lost"
        );
    }

    /// Plans every running sequence with one position to compute. Notes those with more in
    /// `self.prompts`.
    fn plan_decodes(&mut self, draft: &mut Draft<'_>, events: &mut Vec<Event>) -> Pressure {
        let mut pressure = Pressure::None;
        self.prompts.clear();
        let block_tokens = self.kv.block_tokens();
        // Preemption takes from the list where this loop has not been, or where it is.
        let mut at = 0;
        while let Some(&Handle { index, .. }) = self.running.get(at) {
            at += 1;
            let mut sequence = self.sequences.at_mut(index);
            let remaining = sequence.remaining();
            if remaining > 1 {
                self.prompts.push(index);
                continue;
            }
            if remaining == 0 || sequence.is_full() {
                continue;
            }
            if sequence.needs_block(block_tokens) {
                if self.kv.pool().available() == 0 {
                    pressure = Pressure::OutOfBlocks;
                    match self.make_room(at - 1, events) {
                        Room::Made => {}
                        Room::Later => continue,
                        Room::Gone => {
                            at -= 1;
                            continue;
                        }
                    }
                }
                self.take_block(index);
                sequence = self.sequences.at_mut(index);
            }
            let blocks = sequence.table.len();
            draft.load.rows += 1;
            draft.push(index, sequence, 1, blocks);
        }
        pressure
    }

    /// Preempts until a block is available for the running sequence at `asking`.
    fn make_room(&mut self, asking: usize, events: &mut Vec<Event>) -> Room {
        while self.kv.pool().available() == 0 {
            if !self.fences.is_empty() {
                return Room::Later;
            }
            let victim = self.victim(asking);
            self.preempt(victim, events);
            if victim == asking {
                return Room::Gone;
            }
        }
        Room::Made
    }

    /// Who gives way to the running sequence at `asking`: the worst-ranked one from there on, and if
    /// possible one that has not given way too often. The best-ranked sequence never does.
    fn victim(&self, asking: usize) -> usize {
        let candidates = asking.max(1)..self.running.len();
        let Some(worst) = candidates.clone().next_back() else {
            unreachable!("every block is taken and nobody else runs");
        };
        let willing = |&at: &usize| {
            let sequence = self.sequences.at(self.running[at].index);
            sequence.cold.preemptions < self.limits.preemptions_max
        };
        candidates.rev().find(willing).unwrap_or(worst)
    }

    /// Sends the running sequence at `at` back to the queue.
    fn preempt(&mut self, at: usize, events: &mut Vec<Event>) {
        let Handle { index, .. } = self.running.remove(at);
        self.preemptions += 1;
        self.vacate(index);
        self.sequences.restamp(index);
        let sequence = self.sequences.at_mut(index);
        sequence.cold.preemptions += 1;
        sequence.rewind();
        events.push(Event::Preempted { id: sequence.id });
        let (account, key) = (sequence.account, sequence.wait_key());
        let waiter = Waiter {
            sequence: index,
            tokens: sequence.known,
        };
        self.queue.push(account, key, waiter);
    }

    /// Spends what is left of the budget on running prompts, best rank first.
    fn plan_prompts(&mut self, draft: &mut Draft<'_>) {
        self.prompt_tokens_left = 0;
        for at in 0..self.prompts.len() {
            self.plan_text(draft, self.prompts[at]);
        }
    }

    /// Lets waiting requests in while there is room, in the queue's order.
    fn admit(&mut self, draft: &mut Draft<'_>, events: &mut Vec<Event>) {
        self.blocks_short = false;
        while draft.budget > 0 && !self.slots.is_empty() {
            let Some(index) = self.queue.first() else {
                return;
            };
            // A preempted sequence whose sampled token is still to come does not know its text.
            if self.sequences.at(index).pending > 0 {
                return;
            }
            if !self.find_prefix(index) {
                self.blocks_short = true;
                return;
            }
            let copied = self.partial.map_or(0, |(_, tokens)| tokens);
            let cached = self.hits.len() as u32 * self.kv.block_tokens() + copied;
            if draft.pace.allows(cached, 1) == 0 {
                return;
            }
            if self.is_promised(index) {
                return;
            }
            let Some(slot) = self.slots.pop() else { return };
            self.start(draft, index, slot, events);
            self.plan_text(draft, index);
        }
    }

    /// Looks up the beginning of a waiting sequence in the prefix cache, into `self.hits`.
    /// Returns whether the blocks it needs besides are available.
    fn find_prefix(&mut self, index: u32) -> bool {
        let block_tokens = self.kv.block_tokens();
        let sequence = self.sequences.at_mut(index);
        let findable = sequence.findable(block_tokens);
        let needed = self.kv.blocks_for(sequence.known);
        let preemptions = sequence.cold.preemptions;
        let growth = if preemptions < self.limits.preemptions_max {
            0
        } else {
            self.kv.blocks_for(sequence.known_max) - needed
        };
        let mut parent = Parent::root(sequence.cold.root);
        let mut before = sequence.cold.root;
        let mut idle_hits = 0;
        self.hits.clear();
        for at in 0..findable {
            let start = at * block_tokens;
            self.block_text.clear();
            sequence.copy_tokens(start..start + block_tokens, &mut self.block_text);
            let tokens = &self.block_text;
            let hash = sequence.hash_at(at, tokens, before, self.hasher.as_ref());
            if at as usize == sequence.cold.hashes.len() {
                sequence.cold.hashes.push(hash);
            }
            let Some((block, content)) = self.kv.find(Key {
                hash,
                parent,
                tokens,
            }) else {
                break;
            };
            idle_hits += u32::from(self.kv.pool().refs(block) == 0);
            self.hits.push(block);
            parent = parent.followed_by(content);
            before = hash;
        }
        sequence.cold.parent = parent;
        sequence.cold.hash = before;
        self.partial =
            sequence.find_partial(self.hits.len() as u32, &self.kv, &mut self.block_text);
        let reserve = match (self.running_count, preemptions) {
            (0, _) => 0,
            (_, 0) => watermark(&self.kv),
            // Less, and it would be thrown out again within a few steps.
            (running, _) => watermark(&self.kv).max(running + 1).max(growth),
        };
        needed - self.hits.len() as u32 + idle_hits + reserve <= self.kv.pool().available()
    }

    /// Whether the blocks after those in `self.hits`, two of them or more, are being computed for
    /// somebody else. A hash that collides costs a step.
    fn is_promised(&mut self, index: u32) -> bool {
        let block_tokens = self.kv.block_tokens();
        let second = self.hits.len() as u32 + 1;
        let sequence = self.sequences.at_mut(index);
        if self.promises.is_empty() || second >= sequence.findable(block_tokens) {
            return false;
        }
        let hasher = self.hasher.as_ref();
        let hash = sequence.hash_of(second, block_tokens, hasher, &mut self.block_text);
        self.promises.iter().any(|&(_, promised)| promised == hash)
    }

    /// Notes which blocks a slice at `positions` will leave behind, if there are two or more.
    fn promise(&mut self, index: u32, step: u64, positions: Range<u32>) {
        let block_tokens = self.kv.block_tokens();
        let second = positions.start / block_tokens + 1;
        if (second + 1) * block_tokens > positions.end {
            return;
        }
        let hasher = self.hasher.as_ref();
        let sequence = self.sequences.at_mut(index);
        let hash = sequence.hash_of(second, block_tokens, hasher, &mut self.block_text);
        self.promises.push((step, hash));
    }

    /// Makes the waiting sequence for which [`Scheduler::find_prefix`] was called a running one:
    /// it gets a slot and all blocks of its known text.
    fn start(&mut self, draft: &mut Draft<'_>, index: u32, slot: SlotId, events: &mut Vec<Event>) {
        let hits = self.hits.len() as u32;
        let copied = self.partial.map_or(0, |(_, tokens)| tokens);
        let sequence = self.sequences.at_mut(index);
        let cached = hits * self.kv.block_tokens() + copied;
        // Text computed again after a preemption is not its tenant's debt.
        let unpaid = if sequence.cold.started {
            0
        } else {
            sequence.known - cached
        };
        self.queue
            .admit(sequence.account, sequence.wait_key(), unpaid);
        sequence.slot = Some(slot);
        sequence.published = hits;
        sequence.computed = cached;
        sequence.planned = cached;
        if !sequence.cold.started {
            sequence.cold.started = true;
            let prompt = sequence.cold.prompt.len() as u32;
            let cached_tokens = cached.min(prompt);
            self.prefix_queried_tokens += u64::from(prompt);
            self.prefix_hit_tokens += u64::from(cached_tokens);
            self.forecast.started(sequence.known, unpaid);
            events.push(Event::Started {
                id: sequence.id,
                cached_tokens,
            });
        }
        let needed = self.kv.blocks_for(sequence.known) as usize;
        // All it may ever need, so that no step moves a table.
        sequence
            .table
            .reserve(self.kv.blocks_for(sequence.known_max) as usize);
        let outputs = (sequence.cold.output_max as usize).min(OUTPUT_TOKENS_RESERVED);
        let more = outputs.saturating_sub(sequence.output.len());
        sequence.output.reserve(more);
        sequence.table.extend_from_slice(&self.hits);
        for &block in &self.hits {
            self.kv.share(block);
        }
        while self.sequences.at(index).table.len() < needed {
            self.take_block(index);
        }
        if let Some((from, tokens)) = self.partial.take() {
            let to = self.sequences.at(index).table[hits as usize];
            draft.plan.copies.push(BlockCopy { from, to, tokens });
        }
        self.enlist(index);
    }

    /// Adds a sequence to the running list, at its rank.
    fn enlist(&mut self, index: u32) {
        let sequence = self.sequences.at(index);
        let rank = sequence.rank();
        let handle = Handle {
            index,
            stamp: sequence.stamp,
        };
        let sequences = &self.sequences;
        let place = match self.running.last() {
            Some(last) if sequences.at(last.index).rank() > rank => self
                .running
                .partition_point(|other| sequences.at(other.index).rank() < rank),
            _ => self.running.len(),
        };
        self.running.insert(place, handle);
        self.running_count += 1;
    }

    /// Adds an available block to a table.
    fn take_block(&mut self, index: u32) {
        let Some(block) = self.kv.take() else {
            unreachable!("no block is left, though one was seen available");
        };
        self.sequences.at_mut(index).table.push(block);
    }

    /// Plans as much of a running sequence's known text as budget and pace allow.
    fn plan_text(&mut self, draft: &mut Draft<'_>, index: u32) {
        let sequence = self.sequences.at_mut(index);
        let wanted = sequence.remaining().min(draft.budget);
        let count = draft.pace.allows(sequence.planned, wanted);
        self.prompt_tokens_left += u64::from(sequence.remaining() - count);
        if count == 0 {
            return;
        }
        let positions = sequence.planned..sequence.planned + count;
        let blocks = self.kv.blocks_for(positions.end) as usize;
        draft.pace.take(positions.start, count);
        if count == 1 {
            draft.load.rows += 1;
        } else {
            draft.load.prompt_tokens += count;
        }
        draft.push(index, sequence, count, blocks);
        self.promise(index, draft.plan.step, positions);
    }
}

impl Draft<'_> {
    /// Adds the next `count` positions of a running sequence, which lie in its first `blocks`
    /// blocks.
    #[inline]
    fn push(&mut self, index: u32, sequence: &mut Sequence, count: u32, blocks: usize) {
        assert!(
            count > 0 && count <= self.budget,
            "the step is over its budget"
        );
        self.budget -= count;
        self.load.kv_tokens += u64::from(sequence.planned + count);
        let Some(slot) = sequence.slot else {
            unreachable!("{:?} is planned and does not run", sequence.id);
        };
        let start = sequence.planned;
        let end = start + count;
        let samples = count == sequence.remaining();
        let plan = &mut *self.plan;
        let token_start = plan.tokens.len() as u32;
        if count == 1 && end == sequence.known {
            plan.tokens.push(sequence.last);
        } else {
            sequence.copy_tokens(start..end, &mut plan.tokens);
        }
        let table_start = plan.tables.len() as u32;
        plan.tables.extend_from_slice(&sequence.table[..blocks]);
        let id = sequence.id;
        plan.slices.push(Slice {
            id,
            slot,
            positions: start..end,
            tokens: token_start..token_start + count,
            table: table_start..table_start + blocks as u32,
            samples,
        });
        sequence.planned = end;
        sequence.pending += u32::from(samples);
        sequence.last_step = plan.step;
        let sequence = Handle {
            index,
            stamp: sequence.stamp,
        };
        self.rows.push(Row {
            sequence,
            id,
            end,
            samples,
        });
    }
}

/// Output tokens of a sequence for which there is memory from its start, so that no step has to get
/// some: 4 KiB. Longer outputs double it now and then.
const OUTPUT_TOKENS_RESERVED: usize = 1024;

/// Blocks that admissions leave alone while others run, so that these can grow: 1 %.
fn watermark(kv: &Kv) -> u32 {
    kv.pool().total().div_ceil(100)
}

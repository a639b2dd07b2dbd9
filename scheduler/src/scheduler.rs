//! The policy: submit, abort, plan, apply.
//!
//! Served in this order, within `step_tokens_max` positions a step:
//! 1. running sequences with one position to compute (decodes), all of them, best rank first;
//! 2. running sequences with more (prompts), as many positions as the budget leaves;
//! 3. waiting requests in the queue's order, while slots, blocks and budget last. The first that
//!    does not fit ends the round: nobody is overtaken because he is big.
//!
//! A running sequence that needs a block when there is none preempts the worst-ranked running
//! sequence (lowest priority, then latest arrival), which may be itself. The preempted one gives
//! up its blocks, waits, and computes its text again. The best-ranked sequence is never
//! preempted, so there is always progress. Whoever gave way `preemptions_max` times is passed over
//! while somebody else can give way. A preempted sequence comes back only when there is a block to
//! grow into for it and for everybody who runs.
//!
//! A waiting request whose next blocks are being computed for another one waits for that step and
//! shares them, so that equal beginnings are computed once (*promises*).
//!
//! With `depth_max` 2 a step may be planned while the one before it is in flight. What a step in
//! flight touches, blocks and slots, stays taken until that step is applied (the *fence*).

use std::collections::{BTreeSet, VecDeque};
use std::fmt;

use crate::cache::CacheChanges;
use crate::cost::{CostModel, StepLoad};
use crate::forecast::{Forecast, Running};
use crate::hash::{BlockHash, BlockHasher};
use crate::kv::Kv;
use crate::limits::{Limits, Pool};
use crate::plan::{BlockId, Event, SlotId, Stats};
use crate::policy::{Policy, Weight};
use crate::prefix::Parent;
use crate::queue::{Queue, Waiter};
use crate::request::{Finish, Micros, Priority, Reject, Request, RequestId, TenantId, Token};
use crate::sequence::{Cold, Handle, Sequence, Sequences};

mod applying;
mod checking;
mod planning;

/// Decides what each step computes. See the crate's documentation.
pub struct Scheduler {
    limits: Limits,
    policy: Policy,
    kv: Kv,
    hasher: Box<dyn BlockHasher>,
    sequences: Sequences,
    queue: Queue,
    /// Running sequences, best rank first. Ended ones are swept out by the next plan.
    running: Vec<Handle>,
    /// How many of `running` have not ended.
    running_count: u32,
    /// Slots nobody has, the next one to give at the end.
    slots: Vec<SlotId>,
    deadlines: BTreeSet<(Micros, u32)>,
    /// Steps planned and not yet applied, oldest first.
    flights: VecDeque<Flight>,
    /// What sequences gave up while a step in flight was using it, in order of steps.
    fences: VecDeque<Fence>,
    /// Blocks that steps in flight compute, in order of steps: the hash of the second block that a
    /// slice fills. The hash is chained, so whoever wants this block wants the first one, too; for
    /// one block alone nobody waits.
    promises: Vec<(u64, BlockHash)>,
    /// Requests that ended outside of any call that reports events.
    ended: Vec<(RequestId, Finish)>,
    /// The last step planned, and the last one applied.
    planned: u64,
    applied: u64,
    arrivals: u64,
    plans_unchecked: u32,
    costs: CostModel,
    forecast: Forecast,
    /// The decodes of the last step that had any.
    decodes: StepLoad,
    /// What prompts that run had left to compute after it.
    prompt_tokens_left: u64,
    /// Whether blocks kept somebody out of the last step who had a slot.
    blocks_short: bool,
    prefix_queried_tokens: u64,
    prefix_hit_tokens: u64,
    preemptions: u64,
    /// Reused from call to call.
    spare_rows: Vec<Vec<Row>>,
    hits: Vec<BlockId>,
    /// What holds the beginning of the block after `hits`, and how many tokens of it.
    partial: Option<(BlockId, u32)>,
    prompts: Vec<u32>,
    block_text: Vec<Token>,
}

/// A planned step whose answer has not come.
#[derive(Debug)]
struct Flight {
    step: u64,
    load: StepLoad,
    rows: Vec<Row>,
}

/// What a slice will have done once its step is applied.
#[derive(Clone, Copy, Debug)]
struct Row {
    sequence: Handle,
    id: RequestId,
    /// Positions before this one will be computed.
    end: u32,
    samples: bool,
}

/// A table and a slot that become free when `step` is applied.
#[derive(Debug)]
struct Fence {
    step: u64,
    table: Vec<BlockId>,
    slot: SlotId,
}

impl Scheduler {
    /// An idle scheduler over an empty pool.
    ///
    /// No more than `step_tokens_max` sequences run at once, whatever `running_max` says: each
    /// of them may need one position a step.
    pub fn new(limits: Limits, pool: Pool, hasher: Box<dyn BlockHasher>) -> Self {
        Self::with_policy(limits, Policy::default(), pool, hasher)
    }

    /// As [`Scheduler::new`], with choices of its owner's.
    pub fn with_policy(
        limits: Limits,
        policy: Policy,
        pool: Pool,
        hasher: Box<dyn BlockHasher>,
    ) -> Self {
        assert!(
            limits.step_tokens_max > 0,
            "a step computes at least one position"
        );
        assert!(limits.running_max > 0, "at least one sequence runs");
        assert!((1..=2).contains(&limits.depth_max), "depth_max is 1 or 2");
        let slots = limits.running_max.min(limits.step_tokens_max);
        Self {
            limits,
            policy,
            kv: Kv::new(pool),
            hasher,
            sequences: Sequences::default(),
            queue: Queue::new(policy),
            running: Vec::with_capacity(slots as usize),
            running_count: 0,
            slots: (0..slots).rev().map(SlotId).collect(),
            deadlines: BTreeSet::new(),
            flights: VecDeque::new(),
            fences: VecDeque::new(),
            promises: Vec::new(),
            ended: Vec::new(),
            planned: 0,
            applied: 0,
            arrivals: 0,
            plans_unchecked: 0,
            costs: CostModel::default(),
            forecast: Forecast::default(),
            decodes: StepLoad::default(),
            prompt_tokens_left: 0,
            blocks_short: false,
            prefix_queried_tokens: 0,
            prefix_hit_tokens: 0,
            preemptions: 0,
            spare_rows: Vec::new(),
            hits: Vec::new(),
            partial: None,
            prompts: Vec::new(),
            block_text: Vec::new(),
        }
    }

    /// Queues a request, or says why not. Its id must never have been used before.
    pub fn submit(&mut self, request: Request, now: Micros) -> Result<(), Reject> {
        self.admissible(&request, now)?;
        self.welcome(&request, now)?;
        self.enqueue(request, now);
        Ok(())
    }

    /// Queues a request that was accepted before, by an earlier scheduler of the same engine. Refuses
    /// only what cannot be served: there was room for it, and a second refusal would break a promise.
    pub fn resubmit(&mut self, request: Request, now: Micros) -> Result<(), Reject> {
        self.admissible(&request, now)?;
        self.enqueue(request, now);
        Ok(())
    }

    /// When a request with so many tokens to compute would get its first token if it came now;
    /// `None` if that cannot be told, or is at once.
    pub fn forecast(
        &mut self,
        priority: Priority,
        tenant: TenantId,
        tokens: u32,
    ) -> Option<Micros> {
        let ahead = self.queue.ahead(priority, tenant);
        let running = Running {
            decodes: self.decodes,
            prompt_tokens: self.prompt_tokens_left,
            sequences: self.running_count,
            slots: self.limits.running_max.min(self.limits.step_tokens_max),
            seats: self.seats(),
            step_tokens_max: self.limits.step_tokens_max,
            target: self.policy.step_target,
        };
        self.forecast
            .first_token(&self.costs, running, ahead, tokens)
    }

    /// The oldest step in flight took so long. To be told before the step is applied; without it the
    /// scheduler predicts nothing and keeps no target.
    pub fn observe(&mut self, took: Micros) {
        let Some(flight) = self.flights.front() else {
            unreachable!("a step took {took:?} and none is in flight");
        };
        self.costs.observe(flight.load, took);
    }

    /// What steps cost, as far as [`Scheduler::observe`] has told.
    pub fn costs(&self) -> &CostModel {
        &self.costs
    }

    /// A tenant counts with this weight from now on. Forgotten at some time after its last request;
    /// to say it again costs nothing.
    pub fn weigh(&mut self, tenant: TenantId, weight: Weight) {
        self.queue.weigh(tenant, weight);
    }

    fn enqueue(&mut self, request: Request, now: Micros) {
        let output_max = request.output_max.get();
        if request.generated.len() >= output_max as usize {
            self.ended.push((request.id, Finish::Length));
            return;
        }
        self.arrivals += 1;
        let patience = Micros(now.0.saturating_add(self.policy.patience.0));
        let cold = Cold {
            prompt: request.prompt,
            output_max,
            root: request.root,
            hash: request.root,
            parent: Parent::root(request.root),
            hashes: Vec::new(),
            priority: request.priority,
            arrival: self.arrivals,
            urgency: request
                .deadline
                .map_or(patience, |deadline| deadline.min(patience)),
            deadline: request.deadline,
            preemptions: 0,
            started: false,
        };
        let account = self.queue.join(request.priority, request.tenant);
        let sequence = Sequence::new(request.id, account, request.generated, cold);
        let (key, tokens) = (sequence.wait_key(), sequence.known);
        let index = self.sequences.insert(sequence);
        let waiter = Waiter {
            sequence: index,
            tokens,
        };
        self.queue.push(account, key, waiter);
        if let Some(deadline) = request.deadline {
            self.deadlines.insert((deadline, index));
        }
    }

    /// Ends a request and reports its `Finished` at once. Returns whether it was known.
    pub fn abort(&mut self, id: RequestId, events: &mut Vec<Event>) -> bool {
        let Some(index) = self.sequences.index_of(id) else {
            return false;
        };
        self.end(index, Finish::Abort, events);
        true
    }

    /// Counts for metrics.
    pub fn stats(&self) -> Stats {
        let pool = self.kv.pool();
        Stats {
            waiting: self.queue.waiting(),
            running: self.running_count,
            blocks_free: pool.free(),
            blocks_active: pool.total() - pool.available(),
            blocks_cached: pool.cached(),
            blocks_total: pool.total(),
            prefix_queried_tokens: self.prefix_queried_tokens,
            prefix_hit_tokens: self.prefix_hit_tokens,
            preemptions: self.preemptions,
            evictions: self.kv.evictions(),
        }
    }

    /// Whether no request waits or runs, no step is in flight and nothing is left to report.
    pub fn is_idle(&self) -> bool {
        self.sequences.len() == 0 && self.flights.is_empty() && self.ended.is_empty()
    }

    /// The earliest deadline of any request, for the engine's timer.
    pub fn deadline(&self) -> Option<Micros> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// Drops every unreferenced cached block; returns how many.
    pub fn flush_cache(&mut self) -> u32 {
        self.kv.flush()
    }

    /// Notes from now on what changes in the prefix cache. Whoever watches takes the changes after
    /// every step: they are kept until then.
    pub fn watch_cache(&mut self) {
        self.kv.watch();
    }

    /// Fills `changes` with what changed in the prefix cache since it was last asked; its memory is
    /// used for what comes next. Always empty before [`Scheduler::watch_cache`].
    pub fn take_cache_changes(&mut self, changes: &mut CacheChanges) {
        self.kv.take_changes(changes);
    }

    /// The hashes of all blocks that the prefix cache can find, in no order: what the changes since
    /// the beginning add up to.
    pub fn cached_hashes(&self) -> impl Iterator<Item = BlockHash> {
        self.kv.hashes()
    }

    /// Refuses what can never be served.
    fn admissible(&self, request: &Request, now: Micros) -> Result<(), Reject> {
        let tokens = request.prompt.len() as u64 + u64::from(request.output_max.get());
        let tokens_max = self.limits.sequence_tokens_max;
        let blocks = tokens.div_ceil(u64::from(self.kv.block_tokens()));
        let blocks_max = self.kv.pool().total();
        if request.prompt.is_empty() {
            Err(Reject::EmptyPrompt)
        } else if request.deadline.is_some_and(|deadline| deadline <= now) {
            Err(Reject::Expired)
        } else if tokens > u64::from(tokens_max) {
            Err(Reject::TooLong { tokens, tokens_max })
        } else if blocks > u64::from(blocks_max) {
            Err(Reject::ExceedsPool { blocks, blocks_max })
        } else {
            Ok(())
        }
    }

    /// Refuses what there is no room to queue.
    fn welcome(&mut self, request: &Request, now: Micros) -> Result<(), Reject> {
        if self.queue.waiting() >= self.limits.waiting_max {
            return Err(Reject::QueueFull {
                waiting: self.queue.waiting(),
            });
        }
        let tokens = (request.prompt.len() + request.generated.len()) as u32;
        if let Some(reject) = self.queue.refuses(request.tenant, tokens) {
            return Err(reject);
        }
        let Some(wait_max) = self.policy.wait_max else {
            return Ok(());
        };
        let left = request.deadline.map(|deadline| Micros(deadline.0 - now.0));
        let wait_max = left.map_or(wait_max, |left| left.min(wait_max));
        match self.forecast(request.priority, request.tenant, tokens) {
            Some(wait) if wait > wait_max => Err(Reject::WaitTooLong { wait, wait_max }),
            _ => Ok(()),
        }
    }

    /// How many sequences could start at once, as far as is known.
    fn seats(&self) -> u32 {
        if self.blocks_short {
            0
        } else {
            self.slots.len() as u32
        }
    }

    /// Ends a request, wherever it is, and reports it.
    fn end(&mut self, index: u32, finish: Finish, events: &mut Vec<Event>) {
        if self.sequences.at(index).slot.is_some() {
            self.vacate(index);
        } else {
            let sequence = self.sequences.at(index);
            self.queue.remove(sequence.account, sequence.wait_key());
        }
        let sequence = self.sequences.remove(index);
        if matches!(finish, Finish::Stop | Finish::Length) {
            self.forecast.ended(sequence.output.len() as u32);
        }
        self.queue.leave(sequence.account);
        if let Some(deadline) = sequence.cold.deadline {
            assert!(
                self.deadlines.remove(&(deadline, index)),
                "a deadline was lost"
            );
        }
        events.push(Event::Finished {
            id: sequence.id,
            finish,
        });
    }

    /// Takes blocks and slot from a running sequence; they become free behind the fence.
    fn vacate(&mut self, index: u32) {
        let sequence = self.sequences.at_mut(index);
        let Some(slot) = sequence.slot.take() else {
            unreachable!("{:?} does not run", sequence.id);
        };
        let table = std::mem::take(&mut sequence.table);
        if sequence.last_step > self.applied {
            self.fences.push_back(Fence {
                step: sequence.last_step,
                table,
                slot,
            });
        } else {
            self.kv.release(&table);
            self.slots.push(slot);
        }
        self.running_count -= 1;
    }
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler")
            .field("limits", &self.limits)
            .field("planned", &self.planned)
            .field("applied", &self.applied)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

//! What must hold in every world, checked from outside, call by call.

use std::collections::{BTreeMap, BTreeSet};

use scheduler::limits::{Limits, Pool};
use scheduler::plan::{BlockId, Event, Outcome, Plan, Sampled, Slice, SlotId, Stats};
use scheduler::request::{Finish, Micros, Reject, Request, RequestId, Token};

use crate::shadow::{Memory, Solo};

/// What is expected of one request.
#[derive(Debug)]
pub(crate) struct Tracked {
    pub(crate) request: Request,
    pub(crate) solo: Solo,
    /// Output tokens so far, replayed ones included.
    received: u32,
    /// Samples that steps in flight will bring.
    pending: u32,
    /// The end of its last slice, and what the slice ran in.
    planned: Option<(u32, SlotId)>,
    started: bool,
    pub(crate) finish: Option<Finish>,
    /// Ends that are legal now, besides those its text brings.
    fault: bool,
    abort: bool,
}

/// All requests of a world.
#[derive(Debug)]
pub(crate) struct Tracker {
    limits: Limits,
    pool: Pool,
    pub(crate) requests: BTreeMap<RequestId, Tracked>,
    /// Preemptions that were reported.
    preemptions: u64,
}

impl Tracker {
    pub(crate) fn new(limits: Limits, pool: Pool) -> Self {
        Self {
            limits,
            pool,
            requests: BTreeMap::new(),
            preemptions: 0,
        }
    }

    /// Checks the answer to a submission; `waiting` requests waited before it.
    pub(crate) fn submitted(
        &mut self,
        request: Request,
        solo: Solo,
        answer: Result<(), Reject>,
        waiting: u32,
    ) {
        let tokens = request.prompt.len() as u64 + u64::from(request.output_max.get());
        let blocks = tokens.div_ceil(u64::from(self.pool.block_tokens.get()));
        let expected = if tokens > u64::from(self.limits.sequence_tokens_max) {
            Err(Reject::TooLong {
                tokens,
                tokens_max: self.limits.sequence_tokens_max,
            })
        } else if blocks > u64::from(self.pool.blocks - 1) {
            Err(Reject::ExceedsPool {
                blocks,
                blocks_max: self.pool.blocks - 1,
            })
        } else if waiting >= self.limits.waiting_max {
            Err(Reject::QueueFull { waiting })
        } else {
            Ok(())
        };
        assert_eq!(answer, expected, "{:?} got a wrong answer", request.id);
        if answer.is_ok() {
            let tracked = Tracked {
                received: request.generated.len() as u32,
                request,
                solo,
                pending: 0,
                planned: None,
                started: false,
                finish: None,
                fault: false,
                abort: false,
            };
            self.requests.insert(tracked.request.id, tracked);
        }
    }

    /// Allows the next call to end `id` with [`Finish::Abort`]; returns whether it lives.
    pub(crate) fn aborting(&mut self, id: RequestId) -> bool {
        let Some(tracked) = self.requests.get_mut(&id) else {
            return false;
        };
        tracked.abort = true;
        tracked.finish.is_none()
    }

    pub(crate) fn at(&self, id: RequestId) -> &Tracked {
        &self.requests[&id]
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = &Tracked> {
        self.requests
            .values()
            .filter(|tracked| tracked.finish.is_none())
    }

    /// Checks what a call reported.
    pub(crate) fn events(&mut self, events: &[Event], now: Micros) {
        for &event in events {
            match event {
                Event::Started { id, cached_tokens } => self.started(id, cached_tokens),
                Event::Preempted { id } => self.preempted(id),
                Event::Token { id, token } => self.token(id, token),
                Event::Finished { id, finish } => self.finished(id, finish, now),
            }
        }
    }

    fn started(&mut self, id: RequestId, cached_tokens: u32) {
        self.overtakes_nobody(id);
        let tracked = self.requests.get_mut(&id).unwrap();
        assert!(
            !tracked.started && tracked.finish.is_none(),
            "{id:?} started out of turn"
        );
        tracked.started = true;
        assert!(cached_tokens as usize <= tracked.request.prompt.len());
    }

    fn preempted(&mut self, id: RequestId) {
        let tracked = self.at(id);
        assert!(
            tracked.started && tracked.finish.is_none(),
            "{id:?} was preempted and does not run"
        );
        self.preemptions += 1;
    }

    /// A higher band goes first; equals of one tenant go in the order of their submission.
    fn overtakes_nobody(&self, id: RequestId) {
        let starting = &self.at(id).request;
        for other in self
            .live()
            .filter(|other| !other.started && other.request.id != id)
        {
            let request = &other.request;
            assert!(
                request.priority <= starting.priority,
                "{id:?} starts before {:?}, which has a higher priority",
                request.id
            );
            let equals = request.priority == starting.priority
                && request.tenant == starting.tenant
                && request.deadline.is_none()
                && starting.deadline.is_none();
            assert!(
                !equals || request.id > id,
                "{id:?} overtakes {:?}",
                request.id
            );
        }
    }

    fn token(&mut self, id: RequestId, token: Token) {
        let tracked = self.requests.get_mut(&id).unwrap();
        assert!(tracked.started, "{id:?} got a token before it started");
        assert!(tracked.finish.is_none(), "{id:?} got a token after its end");
        let expected = tracked.solo.output.get(tracked.received as usize);
        assert_eq!(
            Some(&token),
            expected,
            "{id:?}: not the text it gives alone"
        );
        tracked.received += 1;
        assert!(tracked.pending > 0, "{id:?} got a token nobody sampled");
        tracked.pending -= 1;
    }

    fn finished(&mut self, id: RequestId, finish: Finish, now: Micros) {
        let tracked = self.requests.get_mut(&id).unwrap();
        assert_eq!(tracked.finish, None, "{id:?} ended twice");
        tracked.finish = Some(finish);
        let complete = tracked.received as usize == tracked.solo.output.len();
        let legal = match finish {
            Finish::Stop => complete && tracked.solo.stops,
            Finish::Length => complete && !tracked.solo.stops,
            Finish::Abort => tracked.abort,
            Finish::Deadline => tracked
                .request
                .deadline
                .is_some_and(|deadline| deadline <= now),
            Finish::Fault => tracked.fault,
        };
        assert!(legal, "{id:?} ended with {finish:?} for no reason");
    }

    /// Checks a plan against `flights`, the steps in flight, and notes what it will bring.
    pub(crate) fn plan(&mut self, plan: &Plan, now: Micros, flights: &[&Plan]) {
        assert!(
            plan.tokens.len() <= self.limits.step_tokens_max as usize,
            "over the budget"
        );
        assert!(
            plan.slices.len() <= self.limits.running_max as usize,
            "too many sequences"
        );
        let ids: BTreeSet<_> = plan.slices.iter().map(|slice| slice.id).collect();
        let slots: BTreeSet<_> = plan.slices.iter().map(|slice| slice.slot).collect();
        assert_eq!(ids.len(), plan.slices.len(), "a sequence is planned twice");
        assert_eq!(
            slots.len(),
            plan.slices.len(),
            "two sequences have one slot"
        );
        assert!(slots.iter().all(|slot| slot.0 < self.limits.running_max));
        for slice in &plan.slices {
            self.slice(plan, slice, now);
            self.exclusive(plan, slice, flights);
        }
        self.copies(plan, flights);
        let lengths = plan
            .slices
            .iter()
            .map(|slice| slice.positions.len())
            .sum::<usize>();
        assert_eq!(lengths, plan.tokens.len(), "tokens of no slice");
    }

    fn slice(&mut self, plan: &Plan, slice: &Slice, now: Micros) {
        let id = slice.id;
        let block_tokens = self.pool.block_tokens.get();
        let tracked = self.requests.get_mut(&id).unwrap();
        assert!(tracked.started, "{id:?} runs before it starts");
        assert_eq!(tracked.finish, None, "{id:?} is planned after its end");
        assert!(
            tracked
                .request
                .deadline
                .is_none_or(|deadline| deadline > now),
            "{id:?} expired"
        );
        let (start, end) = (slice.positions.start, slice.positions.end);
        let known = tracked.request.prompt.len() as u32 + tracked.received;
        let reachable = known + tracked.pending;
        assert!(
            start < end && end <= reachable,
            "{id:?} computes {start}..{end} of {reachable}"
        );
        assert_eq!(
            slice.samples,
            end == reachable,
            "{id:?} samples at the wrong position"
        );
        assert!(
            tracked.received + tracked.pending < tracked.request.output_max.get(),
            "{id:?} computes what nobody wants"
        );
        match tracked.planned {
            Some((planned, slot)) if planned == start && slot == slice.slot => {}
            planned => {
                let pending = planned.map_or(0, |_| tracked.pending);
                assert_eq!(pending, 0, "{id:?} starts before its text is known");
                begins_at_a_border(plan, slice, block_tokens);
            }
        }
        tracked.planned = Some((end, slice.slot));
        for (position, &token) in slice.positions.clone().zip(plan.tokens_of(slice)) {
            let expected = if position < known {
                tracked.solo.text[position as usize]
            } else {
                Token::PENDING
            };
            assert_eq!(token, expected, "{id:?} has a foreign token at {position}");
        }
        tracked.pending += u32::from(slice.samples);
        let table = plan.table_of(slice);
        assert_eq!(
            table.len() as u32,
            end.div_ceil(block_tokens),
            "{id:?} has a wrong table"
        );
        let distinct: BTreeSet<_> = table.iter().collect();
        assert_eq!(distinct.len(), table.len(), "{id:?} names a block twice");
        assert!(
            table.iter().all(|b| (1..self.pool.blocks).contains(&b.0)),
            "no such block"
        );
    }

    /// Nobody else reads or writes the blocks that copies write, in this step or in flight. What copies
    /// read may be anybody's.
    fn copies(&self, plan: &Plan, flights: &[&Plan]) {
        for copy in &plan.copies {
            let named = |plan: &&Plan| plan.tables.iter().filter(|&&b| b == copy.to).count();
            let count: usize = flights.iter().chain([&plan]).map(named).sum();
            assert_eq!(count, 1, "{copy:?} writes what others use, or for nobody");
            assert!((1..self.pool.block_tokens.get()).contains(&copy.tokens));
            assert!(
                (1..self.pool.blocks).contains(&copy.from.0),
                "no such block"
            );
        }
    }

    /// Nobody else reads or writes the blocks this slice writes, in this step or in flight.
    fn exclusive(&self, plan: &Plan, slice: &Slice, flights: &[&Plan]) {
        let block_tokens = self.pool.block_tokens.get();
        let first = (slice.positions.start / block_tokens) as usize;
        let written: &[BlockId] = &plan.table_of(slice)[first..];
        for other_plan in flights.iter().copied().chain([plan]) {
            for other in other_plan
                .slices
                .iter()
                .filter(|other| other.id != slice.id)
            {
                for block in other_plan.table_of(other) {
                    let (id, other) = (slice.id, other.id);
                    assert!(
                        !written.contains(block),
                        "{id:?} writes {block:?}, used by {other:?}"
                    );
                }
            }
        }
    }

    /// Checks that each live sequence of an executed step reads its own text from memory.
    pub(crate) fn memory(&mut self, plan: &Plan, outcome: &Outcome, memory: &Memory) {
        for slice in &plan.slices {
            let id = slice.id;
            let faults = outcome.sampled.contains(&(id, Sampled::Fault));
            let tracked = self.requests.get_mut(&id).unwrap();
            tracked.fault |= faults;
            if tracked.finish.is_some() || faults {
                continue;
            }
            for position in 0..slice.positions.end {
                let value = memory.read(plan.table_of(slice), position);
                let own = tracked.solo.values[position as usize];
                assert_eq!(value, own, "{id:?} reads foreign KV at {position}");
            }
        }
    }

    /// Checks the counts against each other and against the bounds.
    pub(crate) fn stats(&self, stats: &Stats) {
        let blocks = stats.blocks_free + stats.blocks_active + stats.blocks_cached;
        assert_eq!(blocks, self.pool.blocks - 1, "blocks are lost: {stats:?}");
        assert_eq!(stats.blocks_total, self.pool.blocks - 1);
        assert!(stats.running <= self.limits.running_max, "{stats:?}");
        assert!(
            stats.waiting <= self.limits.waiting_max + self.limits.running_max,
            "{stats:?}"
        );
        let live = self.live().count() as u32;
        assert_eq!(
            stats.waiting + stats.running,
            live,
            "a request is lost: {stats:?}"
        );
        assert!(stats.prefix_hit_tokens <= stats.prefix_queried_tokens);
        assert_eq!(stats.preemptions, self.preemptions, "one was not reported");
    }
}

/// A sequence begins where a block begins, or behind what was copied of one.
fn begins_at_a_border(plan: &Plan, slice: &Slice, block_tokens: u32) {
    let (block, within) = (
        slice.positions.start / block_tokens,
        slice.positions.start % block_tokens,
    );
    let to = plan.table_of(slice)[block as usize];
    let copied = plan.copies.iter().find(|copy| copy.to == to);
    let copied = copied.map_or(0, |copy| copy.tokens);
    assert_eq!(within, copied, "{:?} starts inside a block", slice.id);
}

//! One random world: submissions, aborts, deadlines, faults and steps, then a drain.

use std::collections::VecDeque;

use scheduler::cache::CacheChanges;
use scheduler::plan::{Event, Outcome, Plan, Stats};
use scheduler::request::{Finish, Micros, RequestId};
use scheduler::scheduler::Scheduler;

use crate::index::Index;
use crate::invariants::Tracker;
use crate::shadow::{Memory, Row, mix};
use crate::workload::{Rng, Shape};

/// Steps within which a world must be drained.
const DRAIN_STEPS: u32 = 20_000;

/// What happened in one world or several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) steps: u64,
    pub(crate) requests: u64,
    pub(crate) preemptions: u64,
    pub(crate) prefix_hit_tokens: u64,
    pub(crate) evictions: u64,
    pub(crate) copies: u64,
    /// By reason, in the order of [`Finish`].
    pub(crate) ends: [u64; 5],
    /// A digest of every plan and event.
    trace: u64,
}

impl Report {
    pub(crate) fn add(&mut self, other: &Report) {
        self.steps += other.steps;
        self.requests += other.requests;
        self.preemptions += other.preemptions;
        self.prefix_hit_tokens += other.prefix_hit_tokens;
        self.evictions += other.evictions;
        self.copies += other.copies;
        for (sum, count) in self.ends.iter_mut().zip(other.ends) {
            *sum += count;
        }
        self.trace = mix(self.trace ^ other.trace);
    }

    fn note(&mut self, text: &str) {
        for byte in text.bytes() {
            self.trace = mix(self.trace ^ u64::from(byte));
        }
    }
}

/// A scheduler, the executor's memory, and what is expected of both.
pub(crate) struct World {
    rng: Rng,
    shape: Shape,
    scheduler: Scheduler,
    memory: Memory,
    tracker: Tracker,
    /// Steps in flight with what the executor needs to know, oldest first.
    flights: VecDeque<(Plan, Vec<Row>)>,
    spare: Plan,
    events: Vec<Event>,
    changes: CacheChanges,
    index: Index,
    now: Micros,
    report: Report,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let shape = Shape::draw(&mut rng);
        let hasher = Box::new(shape.hasher);
        let mut scheduler = Scheduler::new(shape.limits, shape.pool, hasher);
        scheduler.watch_cache();
        Self {
            rng,
            shape,
            scheduler,
            memory: Memory::new(shape.pool, shape.limits.running_max),
            tracker: Tracker::new(shape.limits, shape.pool),
            flights: VecDeque::new(),
            spare: Plan::default(),
            events: Vec::new(),
            changes: CacheChanges::default(),
            index: Index::new(shape.hasher, shape.pool.block_tokens.get()),
            now: Micros(0),
            report: Report::default(),
        }
    }

    pub(crate) fn run(mut self) -> Report {
        for _ in 0..self.shape.ticks {
            self.now.0 += u64::from(self.rng.range(0, 3));
            while self.rng.chance(self.shape.rates.submit) {
                self.submit();
            }
            if self.rng.chance(self.shape.rates.abort) {
                self.abort();
            }
            if self.rng.chance(self.shape.rates.flush) {
                let cached = self.scheduler.stats().blocks_cached;
                assert_eq!(self.scheduler.flush_cache(), cached);
                self.check();
            }
            self.step();
        }
        let mut steps = 0;
        while !self.scheduler.is_idle() {
            self.step();
            steps += 1;
            assert!(steps < DRAIN_STEPS, "the world does not come to rest");
        }
        self.rest()
    }

    /// Everything has ended and nothing is left behind.
    fn rest(mut self) -> Report {
        assert_eq!(self.tracker.live().count(), 0, "a request never ended");
        assert!(self.flights.is_empty());
        self.check();
        let stats = self.scheduler.stats();
        assert_eq!(stats.blocks_active, 0, "blocks leaked: {stats:?}");
        assert_eq!(self.scheduler.deadline(), None);
        self.scheduler.flush_cache();
        assert_eq!(self.scheduler.stats().blocks_free, stats.blocks_total);
        self.check();
        assert!(
            self.index.is_empty(),
            "the changes tell of blocks that are gone"
        );
        self.report.preemptions = stats.preemptions;
        self.report.prefix_hit_tokens = stats.prefix_hit_tokens;
        self.report.evictions = stats.evictions;
        self.report
    }

    fn submit(&mut self) {
        self.report.requests += 1;
        let id = self.report.requests;
        let (request, solo) = self.shape.request(&mut self.rng, id, self.now);
        let waiting = self.scheduler.stats().waiting;
        let answer = self.scheduler.submit(request.clone(), self.now);
        self.tracker.submitted(request, solo, answer, waiting);
        self.check();
    }

    fn abort(&mut self) {
        let id = RequestId(u64::from(
            self.rng.range(1, self.report.requests as u32 + 1),
        ));
        let lives = self.tracker.aborting(id);
        let known = self.scheduler.abort(id, &mut self.events);
        assert_eq!(known, lives, "{id:?} is known to one side only");
        assert_eq!(self.events.len(), usize::from(lives));
        self.take_events();
        self.check();
    }

    /// Plans or applies, whichever is possible.
    fn step(&mut self) {
        let room = self.flights.len() < self.shape.limits.depth_max as usize;
        let ahead = self.flights.is_empty() || self.rng.chance(self.shape.rates.plan_ahead);
        // A second plan may be empty; then the first must be applied.
        let planned = room && ahead && self.plan();
        if !planned && !self.flights.is_empty() {
            self.apply();
        }
    }

    fn plan(&mut self) -> bool {
        let mut plan = std::mem::take(&mut self.spare);
        let before = self.scheduler.stats();
        self.scheduler.plan(self.now, &mut plan, &mut self.events);
        let preempted = self.scheduler.stats().preemptions > before.preemptions;
        let admitted = self
            .events
            .iter()
            .any(|event| matches!(event, Event::Started { .. }));
        assert!(
            !(preempted && admitted),
            "a request was admitted in a step that preempted"
        );
        self.take_events();
        self.report.note(&format!("{plan:?}"));
        let flights: Vec<&Plan> = self.flights.iter().map(|(plan, _)| plan).collect();
        self.tracker.plan(&plan, self.now, &flights);
        self.check();
        if plan.is_empty() {
            let live = self.tracker.live().count();
            assert!(
                live == 0 || !self.flights.is_empty(),
                "{live} requests, nothing planned"
            );
            self.spare = plan;
            return false;
        }
        self.report.steps += 1;
        self.report.copies += plan.copies.len() as u64;
        assert_eq!(plan.step, self.report.steps, "steps are counted wrongly");
        let mut rows = Vec::new();
        for slice in &plan.slices {
            let root = self.tracker.at(slice.id).request.root;
            let fault = slice.samples && self.rng.chance(self.shape.rates.fault);
            rows.push(Row {
                id: slice.id,
                root,
                vocabulary: self.shape.vocabulary(),
                fault,
            });
        }
        self.flights.push_back((plan, rows));
        true
    }

    fn apply(&mut self) {
        let (plan, rows) = self.flights.pop_front().unwrap();
        let mut outcome = Outcome::default();
        self.memory.execute(&plan, &rows, &mut outcome);
        self.tracker.memory(&plan, &outcome, &self.memory);
        self.scheduler.apply(&outcome, self.now, &mut self.events);
        self.take_events();
        self.check();
        self.spare = plan;
    }

    fn take_events(&mut self) {
        self.tracker.events(&self.events, self.now);
        self.report.note(&format!("{:?}", self.events));
        for event in self.events.drain(..) {
            if let Event::Finished { finish, .. } = event {
                self.report.ends[place(finish)] += 1;
            }
        }
    }

    fn check(&mut self) {
        self.scheduler.take_cache_changes(&mut self.changes);
        self.index.follow(&self.changes);
        self.index.agrees(self.scheduler.cached_hashes());
        let stats: Stats = self.scheduler.stats();
        self.tracker.stats(&stats);
        self.scheduler.check();
        let deadline = self
            .tracker
            .live()
            .filter_map(|tracked| tracked.request.deadline)
            .min();
        assert_eq!(
            self.scheduler.deadline(),
            deadline,
            "the wrong deadline is next"
        );
    }
}

fn place(finish: Finish) -> usize {
    match finish {
        Finish::Stop => 0,
        Finish::Length => 1,
        Finish::Abort => 2,
        Finish::Deadline => 3,
        Finish::Fault => 4,
    }
}

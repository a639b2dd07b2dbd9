//! One replica: a scheduler, and an accelerator that takes the time its plans cost.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use scheduler::hash::BlockHash;
use scheduler::limits::{Limits, Pool};
use scheduler::plan::{Event, Outcome, Plan, Sampled, Stats};
use scheduler::request::{Micros, Priority, Reject, Request, RequestId, TenantId};
use scheduler::scheduler::Scheduler;

use crate::cost::{StepCost, Work};
use crate::jobs::{Job, Jobs};
use crate::text::QuickHasher;

/// A replica, as all of a run are.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// The scheduler's bounds.
    pub limits: Limits,
    /// The KV cache.
    pub pool: Pool,
    /// What steps cost.
    pub cost: StepCost,
    /// Who is next.
    pub order: Order,
}

/// Between whom the scheduler is fair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    /// Between tenants, by the tokens computed for each.
    Fair,
    /// Between nobody: first come, first served, for all are one tenant.
    Fcfs,
}

/// A planned step.
#[derive(Debug)]
struct Flight {
    outcome: Outcome,
    nanos: u64,
    work: Work,
    slices: u32,
    /// Blocks in use when it was planned.
    blocks: u32,
}

/// What a step that ended was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) nanos: u64,
    pub(crate) tokens: f64,
    pub(crate) slices: u32,
    pub(crate) blocks: u32,
}

/// See the file's documentation.
#[derive(Debug)]
pub(crate) struct Replica {
    scheduler: Scheduler,
    build: Build,
    /// Planned steps, the first of them running if `running`.
    flights: VecDeque<Flight>,
    running: bool,
    plan: Plan,
    spare: Vec<Outcome>,
}

impl Replica {
    /// An idle one.
    pub(crate) fn new(build: Build) -> Self {
        Self {
            scheduler: Scheduler::new(build.limits, build.pool, Box::new(QuickHasher)),
            build,
            flights: VecDeque::new(),
            running: false,
            plan: Plan::default(),
            spare: Vec::new(),
        }
    }

    /// Counts of the scheduler.
    pub(crate) fn stats(&self) -> Stats {
        self.scheduler.stats()
    }

    /// Hands a request over.
    pub(crate) fn submit(&mut self, number: u64, job: &Job, now: u64) -> Result<(), Reject> {
        let offer = &job.offer;
        let Some(output_max) = NonZeroU32::new(offer.output_tokens) else {
            unreachable!("an answer has a token");
        };
        let tenant = match self.build.order {
            Order::Fair => offer.tenant,
            Order::Fcfs => 0,
        };
        let request = Request {
            id: RequestId(number),
            prompt: offer.text.prompt(offer.prompt_tokens),
            generated: Vec::new(),
            output_max,
            priority: Priority(offer.priority),
            deadline: offer.deadline.map(|after| micros(now + after)),
            tenant: TenantId(tenant),
            root: BlockHash(0),
        };
        self.scheduler.submit(request, micros(now))
    }

    /// Plans what may be planned, and begins a step if none runs; returns when it will end.
    pub(crate) fn go_on(&mut self, now: u64, jobs: &Jobs, events: &mut Vec<Event>) -> Option<u64> {
        while self.flights.len() < self.build.limits.depth_max as usize {
            self.scheduler.plan(micros(now), &mut self.plan, events);
            if self.plan.is_empty() {
                break;
            }
            let flight = self.answer(jobs);
            self.flights.push_back(flight);
        }
        if self.running {
            return None;
        }
        let flight = self.flights.front()?;
        self.running = true;
        Some(now + flight.nanos)
    }

    /// The running step has ended.
    pub(crate) fn complete(&mut self, now: u64, events: &mut Vec<Event>) -> Step {
        let Some(flight) = self.flights.pop_front() else {
            unreachable!("a step ends that was not planned");
        };
        assert!(self.running, "a step ends that did not begin");
        self.running = false;
        self.scheduler.apply(&flight.outcome, micros(now), events);
        self.spare.push(flight.outcome);
        Step {
            nanos: flight.nanos,
            tokens: flight.work.tokens,
            slices: flight.slices,
            blocks: flight.blocks,
        }
    }

    /// What the plan will give, and what it costs.
    fn answer(&mut self, jobs: &Jobs) -> Flight {
        let mut outcome = self.spare.pop().unwrap_or_default();
        outcome.step = self.plan.step;
        outcome.sampled.clear();
        for slice in self.plan.slices.iter().filter(|slice| slice.samples) {
            let token = jobs.get(slice.id.0).offer.text.token(slice.positions.end);
            outcome.sampled.push((slice.id, Sampled::Token(token)));
        }
        let work = Work::of(&self.plan);
        Flight {
            outcome,
            nanos: self.build.cost.nanos(work),
            work,
            slices: self.plan.slices.len() as u32,
            blocks: self.scheduler.stats().blocks_active,
        }
    }
}

fn micros(nanos: u64) -> Micros {
    Micros(nanos / 1000)
}

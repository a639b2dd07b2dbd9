//! A scheduler with an executor that computes nothing, for the properties of its policy: every text
//! has the length its request asks for, and what each tenant got is counted.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use scheduler::cost::StepLoad;
use scheduler::hash::BlockHash;
use scheduler::limits::{Limits, Pool};
use scheduler::plan::{Event, Outcome, Plan, Sampled};
use scheduler::policy::Policy;
use scheduler::request::{Micros, Priority, Reject, Request, RequestId, TenantId, Token};
use scheduler::scheduler::Scheduler;

use crate::shadow::mix;
use crate::workload::BitsHasher;

/// What a request asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) tenant: u32,
    pub(crate) priority: i8,
    pub(crate) prompt: u32,
    pub(crate) output: u32,
    /// Its first tokens are those of all with the same number.
    pub(crate) family: Option<u32>,
    pub(crate) deadline: Option<u64>,
}

impl Default for Ask {
    fn default() -> Self {
        Self {
            tenant: 1,
            priority: 0,
            prompt: 1,
            output: 1,
            family: None,
            deadline: None,
        }
    }
}

/// What became of one so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) ask: Ask,
    pub(crate) submitted: Micros,
    pub(crate) started: Option<Micros>,
    /// When its first token came.
    pub(crate) answered: Option<Micros>,
    pub(crate) output: u32,
    pub(crate) ended: bool,
}

/// What a tenant got.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Got {
    /// Prompt tokens that were computed for it, counted when it was admitted.
    pub(crate) input: u64,
    pub(crate) output: u64,
}

/// See the module's documentation.
pub(crate) struct Desk {
    pub(crate) scheduler: Scheduler,
    pub(crate) limits: Limits,
    pub(crate) plan: Plan,
    pub(crate) cases: BTreeMap<u64, Case>,
    pub(crate) got: BTreeMap<u32, Got>,
    /// Who started in the last plan, with the tokens that were not cached.
    pub(crate) started: Vec<(u64, u32)>,
    pub(crate) now: Micros,
    /// What steps cost, in microseconds: each, a row, a prompt token, a KV token read. With it the
    /// clock goes by steps, and the scheduler is told.
    pub(crate) costs: Option<[f64; 4]>,
    events: Vec<Event>,
    outcome: Outcome,
    last: u64,
    checks: u32,
}

impl Desk {
    pub(crate) fn new(limits: Limits, policy: Policy, pool: Pool) -> Self {
        let hasher = Box::new(BitsHasher { bits: 128 });
        Self {
            scheduler: Scheduler::with_policy(limits, policy, pool, hasher),
            limits,
            plan: Plan::default(),
            cases: BTreeMap::new(),
            got: BTreeMap::new(),
            started: Vec::new(),
            now: Micros(0),
            costs: None,
            events: Vec::new(),
            outcome: Outcome::default(),
            last: 0,
            checks: 0,
        }
    }

    /// Submits; returns the number of the request.
    pub(crate) fn submit(&mut self, ask: Ask) -> Result<u64, Reject> {
        self.last += 1;
        let id = self.last;
        let common = ask.family.map_or(0, |_| ask.prompt / 2);
        let word = |at: u32| {
            let owner = if at < common {
                u64::from(ask.family.unwrap_or_default())
            } else {
                1000 + id
            };
            Token(mix(owner << 32 | u64::from(at)) as u32 >> 1)
        };
        let request = Request {
            id: RequestId(id),
            prompt: (0..ask.prompt).map(word).collect(),
            generated: Vec::new(),
            output_max: NonZeroU32::new(ask.output).unwrap(),
            priority: Priority(ask.priority),
            deadline: ask.deadline.map(Micros),
            tenant: TenantId(ask.tenant),
            root: BlockHash(0),
        };
        self.scheduler.submit(request, self.now)?;
        self.check();
        let case = Case {
            ask,
            submitted: self.now,
            started: None,
            answered: None,
            output: 0,
            ended: false,
        };
        self.cases.insert(id, case);
        Ok(id)
    }

    /// Plans a step. Returns whether there is one.
    pub(crate) fn plan(&mut self) -> bool {
        self.started.clear();
        self.scheduler
            .plan(self.now, &mut self.plan, &mut self.events);
        self.note();
        self.check();
        !self.plan.is_empty()
    }

    /// What the step does.
    pub(crate) fn load(&self) -> StepLoad {
        let mut load = StepLoad::default();
        for slice in &self.plan.slices {
            match slice.positions.len() as u32 {
                1 => load.rows += 1,
                tokens => load.prompt_tokens += tokens,
            }
            load.kv_tokens += u64::from(slice.positions.end);
        }
        load
    }

    /// What the step truly takes.
    pub(crate) fn took(&self, costs: [f64; 4]) -> Micros {
        let load = self.load();
        let us = costs[0]
            + costs[1] * f64::from(load.rows)
            + costs[2] * f64::from(load.prompt_tokens)
            + costs[3] * load.kv_tokens as f64;
        Micros(us as u64)
    }

    /// Answers the step.
    pub(crate) fn apply(&mut self) {
        if let Some(costs) = self.costs {
            let took = self.took(costs);
            self.now.0 += took.0;
            self.scheduler.observe(took);
        }
        self.outcome.step = self.plan.step;
        self.outcome.sampled.clear();
        for slice in self.plan.slices.iter().filter(|slice| slice.samples) {
            let token = Token(slice.positions.end ^ (slice.id.0 as u32) << 12);
            self.outcome.sampled.push((slice.id, Sampled::Token(token)));
        }
        self.scheduler
            .apply(&self.outcome, self.now, &mut self.events);
        self.note();
        self.check();
    }

    /// Requests of a tenant that have not started.
    pub(crate) fn waiting(&self, tenant: u32) -> usize {
        let waits =
            |case: &&Case| case.ask.tenant == tenant && case.started.is_none() && !case.ended;
        self.cases.values().filter(waits).count()
    }

    /// Requests of a tenant that have not ended.
    pub(crate) fn live(&self, tenant: u32) -> usize {
        let lives = |case: &&Case| case.ask.tenant == tenant && !case.ended;
        self.cases.values().filter(lives).count()
    }

    /// Outputs that the started requests of a tenant still bring.
    pub(crate) fn coming(&self, tenant: u32) -> u64 {
        let runs =
            |case: &&Case| case.ask.tenant == tenant && case.started.is_some() && !case.ended;
        let left = |case: &Case| u64::from(case.ask.output - case.output);
        self.cases.values().filter(runs).map(left).sum()
    }

    /// Every eighth time, for a check is slow.
    fn check(&mut self) {
        self.checks += 1;
        if self.checks.is_multiple_of(8) {
            self.scheduler.check();
        }
    }

    fn note(&mut self) {
        for event in self.events.drain(..) {
            match event {
                Event::Started { id, cached_tokens } => {
                    let case = self.cases.get_mut(&id.0).unwrap();
                    case.started = Some(self.now);
                    let computed = case.ask.prompt - cached_tokens;
                    self.got.entry(case.ask.tenant).or_default().input += u64::from(computed);
                    self.started.push((id.0, computed));
                }
                Event::Token { id, .. } => {
                    let case = self.cases.get_mut(&id.0).unwrap();
                    case.answered.get_or_insert(self.now);
                    case.output += 1;
                    self.got.entry(case.ask.tenant).or_default().output += 1;
                }
                Event::Preempted { .. } => {}
                Event::Finished { id, .. } => self.cases.get_mut(&id.0).unwrap().ended = true,
            }
        }
    }
}

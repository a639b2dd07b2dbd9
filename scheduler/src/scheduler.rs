//! The policy: submit, abort, plan, apply.

use crate::hash::BlockHasher;
use crate::limits::{Limits, Pool};
use crate::plan::{Event, Outcome, Plan, Stats};
use crate::request::{Micros, Reject, Request, RequestId};

/// Decides what each step computes. See the crate's documentation.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    pool: Pool,
}

impl Scheduler {
    /// An idle scheduler over an empty pool.
    pub fn new(limits: Limits, pool: Pool, _hasher: Box<dyn BlockHasher>) -> Self {
        Self { limits, pool }
    }
    /// Queues a request, or says why not.
    pub fn submit(&mut self, _request: Request, _now: Micros) -> Result<(), Reject> {
        unimplemented!("scheduler under construction {:?} {:?}", self.limits, self.pool)
    }
    /// Ends a request; its `Finished` event comes with the next `apply` or `plan`.
    /// Returns whether it was known.
    pub fn abort(&mut self, _id: RequestId, _events: &mut Vec<Event>) -> bool {
        unimplemented!()
    }
    /// Fills `plan` with the next step; an empty plan means there is nothing to compute now.
    /// Requests whose deadline has passed end here.
    pub fn plan(&mut self, _now: Micros, _plan: &mut Plan, _events: &mut Vec<Event>) {
        unimplemented!()
    }
    /// Takes the answer to the oldest step not yet applied.
    pub fn apply(&mut self, _outcome: &Outcome, _now: Micros, _events: &mut Vec<Event>) {
        unimplemented!()
    }
    /// Counts for metrics.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
    /// Whether a request waits or runs.
    pub fn is_idle(&self) -> bool {
        true
    }
    /// The earliest deadline of any request, for the engine's timer.
    pub fn deadline(&self) -> Option<Micros> {
        None
    }
    /// Drops every unreferenced cached block; returns how many.
    pub fn flush_cache(&mut self) -> u32 {
        0
    }
}

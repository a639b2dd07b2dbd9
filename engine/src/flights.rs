//! Steps in flight: launched and not awaited, with what has to wait for them.

use std::collections::VecDeque;

use scheduler::plan::Plan;
use scheduler::request::{Micros, RequestId};

/// A step in flight.
#[derive(Debug)]
struct Flight {
    plan: Plan,
    launched: Micros,
}

/// A step that has landed.
#[derive(Debug)]
pub(crate) struct Landed {
    /// Its number.
    pub(crate) step: u64,
    /// How many positions it computed.
    pub(crate) positions: usize,
    /// Since when the device had nothing else to do before it.
    pub(crate) begun: Micros,
}

/// The steps in flight, oldest first, and the *fence*: a request that ended while a step in flight
/// names it is released only when that step has landed.
#[derive(Debug)]
pub(crate) struct Flights {
    steps: VecDeque<Flight>,
    depth_max: usize,
    /// The last step that landed, and when.
    landed: u64,
    landed_at: Micros,
    /// Who is to be released once this step has landed, in order of steps.
    releases: VecDeque<(u64, RequestId)>,
    spare: Vec<Plan>,
}

impl Flights {
    /// At most `depth_max` steps fly at once.
    pub(crate) fn new(depth_max: u32) -> Self {
        Self {
            steps: VecDeque::new(),
            depth_max: depth_max as usize,
            landed: 0,
            landed_at: Micros(0),
            releases: VecDeque::new(),
            spare: Vec::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether the oldest step has to land before another one is planned.
    pub(crate) fn is_full(&self) -> bool {
        self.steps.len() >= self.depth_max
    }

    /// Everybody whom a step in flight names, some of them twice.
    pub(crate) fn ids(&self) -> impl Iterator<Item = RequestId> {
        let slices = self.steps.iter().flat_map(|flight| &flight.plan.slices);
        slices.map(|slice| slice.id)
    }

    /// A plan to fill.
    pub(crate) fn blank(&mut self) -> Plan {
        self.spare.pop().unwrap_or_default()
    }

    /// A plan with nothing in it comes back.
    pub(crate) fn spare(&mut self, plan: Plan) {
        self.spare.push(plan);
    }

    /// A step was launched.
    pub(crate) fn push(&mut self, plan: Plan, launched: Micros) {
        assert!(!self.is_full(), "more steps fly than were allowed");
        self.steps.push_back(Flight { plan, launched });
    }

    /// The number of the step to await.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.steps.front().map(|flight| flight.plan.step)
    }

    /// The oldest step has landed.
    pub(crate) fn land(&mut self, now: Micros) -> Landed {
        let Some(Flight { plan, launched }) = self.steps.pop_front() else {
            unreachable!("no step is in flight");
        };
        let landed = Landed {
            step: plan.step,
            positions: plan.tokens.len(),
            begun: launched.max(self.landed_at),
        };
        (self.landed, self.landed_at) = (plan.step, now);
        self.spare.push(plan);
        landed
    }

    /// A request has ended; the steps planned from now on do not name it.
    pub(crate) fn release_behind(&mut self, id: RequestId) {
        let last = self.steps.back().map_or(self.landed, |f| f.plan.step);
        self.releases.push_back((last, id));
    }

    /// The next one whom no step in flight names any longer.
    pub(crate) fn released(&mut self) -> Option<RequestId> {
        let &(step, id) = self.releases.front()?;
        if step > self.landed {
            return None;
        }
        self.releases.pop_front();
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(flights: &mut Flights, step: u64, now: u64) {
        let plan = Plan {
            step,
            ..Plan::default()
        };
        flights.push(plan, Micros(now));
    }

    fn released(flights: &mut Flights) -> Vec<u64> {
        std::iter::from_fn(|| flights.released())
            .map(|id| id.0)
            .collect()
    }

    #[test]
    fn a_release_waits_for_the_last_step_that_may_name_it() {
        let mut flights = Flights::new(2);
        flights.release_behind(RequestId(1));
        assert_eq!(released(&mut flights), [1], "nothing flies");
        launch(&mut flights, 1, 10);
        flights.release_behind(RequestId(2));
        launch(&mut flights, 2, 11);
        flights.release_behind(RequestId(3));
        flights.release_behind(RequestId(4));
        assert!(released(&mut flights).is_empty());
        flights.land(Micros(20));
        assert_eq!(released(&mut flights), [2]);
        flights.land(Micros(30));
        assert_eq!(released(&mut flights), [3, 4]);
    }

    #[test]
    fn a_step_begins_when_the_one_before_it_has_landed() {
        let mut flights = Flights::new(2);
        launch(&mut flights, 1, 10);
        launch(&mut flights, 2, 12);
        assert!(flights.is_full());
        assert_eq!(flights.land(Micros(20)).begun, Micros(10));
        assert_eq!(flights.land(Micros(35)).begun, Micros(20));
        launch(&mut flights, 3, 50);
        assert_eq!(flights.land(Micros(60)).begun, Micros(50));
        assert!(flights.is_empty());
    }
}

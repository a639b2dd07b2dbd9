//! The loop: arrivals and ends of steps, in the order of their time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use scheduler::plan::{Event, Stats};

use crate::jobs::{Job, Jobs};
use crate::replica::{Build, Replica};
use crate::report::Report;
use crate::router::{Router, Rules};
use crate::tally::Tally;
pub use crate::tally::{Objective, Window};
use crate::trace::Trace;
use crate::workload::{Demand, Source};

pub use crate::replica::{Build as ReplicaBuild, Order};

/// A run, described whole.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What all replicas are.
    pub build: Build,
    /// How many there are.
    pub replicas: u32,
    /// Who gets what.
    pub rules: Rules,
    /// Who asks for what.
    pub workload: Workload,
    /// When they do.
    pub window: Window,
    /// What a good request keeps.
    pub objective: Objective,
    /// The names of tenants.
    pub tenants: Vec<String>,
    /// What the report repeats of all this.
    pub setting: Vec<(String, String)>,
}

/// Who asks for what.
#[derive(Clone, Debug)]
pub enum Workload {
    /// Made from a few figures.
    Made(Demand),
    /// Read from a file.
    Trace(Recorded),
}

/// Requests of a file.
#[derive(Clone, Debug)]
pub struct Recorded(pub(crate) Trace);

/// Runs a scenario to its end. `watch` is told the time, in nanoseconds, now and then.
pub fn run(scenario: &Scenario, watch: &mut dyn FnMut(u64)) -> Report {
    let mut world = World::new(scenario);
    let mut events = 0_u64;
    while let Some((now, next)) = world.next() {
        if events.is_multiple_of(1024) {
            watch(now.min(scenario.window.until));
        }
        events += 1;
        world.pass(now);
        match next {
            Next::Step(replica) => world.step_ended(replica, now),
            Next::Arrival => world.arrive(now),
        }
    }
    world.pass(scenario.window.until);
    world.report(scenario)
}

#[derive(Clone, Copy, Debug)]
enum Next {
    Step(u32),
    Arrival,
}

struct World {
    replicas: Vec<Replica>,
    router: Router,
    source: Source,
    jobs: Jobs,
    tally: Tally,
    /// Ends of running steps.
    ends: BinaryHeap<Reverse<(u64, u32)>>,
    events: Vec<Event>,
    window: Window,
    opened: bool,
    /// The scheduler's counters at the end of the window.
    after: Option<Stats>,
}

impl World {
    fn new(scenario: &Scenario) -> Self {
        let source = match &scenario.workload {
            Workload::Made(demand) => Source::made(demand.clone()),
            Workload::Trace(trace) => Source::listed(trace.0.offers.iter().copied()),
        };
        Self {
            replicas: (0..scenario.replicas)
                .map(|_| Replica::new(scenario.build))
                .collect(),
            router: Router::new(scenario.rules, scenario.replicas),
            source,
            jobs: Jobs::default(),
            tally: Tally::new(scenario.window, scenario.objective, scenario.tenants.len()),
            ends: BinaryHeap::new(),
            events: Vec::new(),
            window: scenario.window,
            opened: false,
            after: None,
        }
    }

    /// What happens next. Of what happens at the same time steps end first, then requests arrive.
    fn next(&self) -> Option<(u64, Next)> {
        let end = self.ends.peek().map(|&Reverse(end)| end);
        match (end, self.source.next_at()) {
            (Some((end, replica)), arrival) if arrival.is_none_or(|arrival| end <= arrival) => {
                Some((end, Next::Step(replica)))
            }
            (_, Some(arrival)) => Some((arrival, Next::Arrival)),
            (_, None) => None,
        }
    }

    /// Time passes: it may be when a replica reports, or when measuring begins or ends.
    fn pass(&mut self, now: u64) {
        self.router.tick(now);
        if !self.opened && now >= self.window.from {
            self.opened = true;
            self.tally.before = self.stats();
        }
        if self.after.is_none() && now >= self.window.until {
            self.after = Some(self.stats());
            self.tally.close(&self.jobs);
        }
    }

    fn arrive(&mut self, now: u64) {
        let Some(offer) = self.source.take() else {
            unreachable!("a request was announced");
        };
        self.tally.arrived(&offer, now);
        let (gateway, replica) = self.router.send(&offer);
        let job = Job {
            offer,
            replica,
            gateway,
            started: false,
            first_at: 0,
            last_at: 0,
            tokens: 0,
        };
        let number = self.jobs.add(job);
        let taken = self.replicas[replica as usize].submit(number, &job, now);
        if taken.is_err() {
            self.jobs.remove(number);
            self.tally.rejected(&offer, now);
            self.router.ended(gateway, replica, &offer);
            self.source.ended(&offer, now);
        }
        self.go_on(replica, now);
    }

    fn step_ended(&mut self, replica: u32, now: u64) {
        self.ends.pop();
        let at = &mut self.replicas[replica as usize];
        let step = at.complete(now, &mut self.events);
        let waiting = at.stats().waiting;
        self.tally.step(step, waiting, now);
        self.hear(now);
        self.go_on(replica, now);
    }

    fn go_on(&mut self, replica: u32, now: u64) {
        let at = &mut self.replicas[replica as usize];
        if let Some(end) = at.go_on(now, &self.jobs, &mut self.events) {
            self.ends.push(Reverse((end, replica)));
        }
        self.hear(now);
    }

    /// What the scheduler said.
    fn hear(&mut self, now: u64) {
        for event in self.events.drain(..) {
            match event {
                Event::Started { id, cached_tokens } => {
                    let job = self.jobs.get_mut(id.0);
                    job.started = true;
                    self.tally.started(&job.offer, cached_tokens, now);
                }
                // Counted by the scheduler's own counter.
                Event::Preempted { .. } => {}
                Event::Token { id, .. } => {
                    let job = self.jobs.get_mut(id.0);
                    self.tally.token(job, now);
                    if job.tokens == 0 {
                        job.first_at = now;
                    }
                    job.last_at = now;
                    job.tokens += 1;
                }
                Event::Finished { id, finish } => {
                    let job = self.jobs.remove(id.0);
                    self.tally.finished(&job, finish, now);
                    self.router.ended(job.gateway, job.replica, &job.offer);
                    self.source.ended(&job.offer, now);
                }
            }
        }
    }

    /// The counters of all schedulers together.
    fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        for replica in &self.replicas {
            let stats = replica.stats();
            sum.blocks_total += stats.blocks_total;
            sum.prefix_queried_tokens += stats.prefix_queried_tokens;
            sum.prefix_hit_tokens += stats.prefix_hit_tokens;
            sum.preemptions += stats.preemptions;
            sum.evictions += stats.evictions;
        }
        sum
    }

    fn report(&self, scenario: &Scenario) -> Report {
        let Some(after) = self.after else {
            unreachable!("the window has ended");
        };
        Report::new(&self.tally, &after, scenario)
    }
}

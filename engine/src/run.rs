//! The loop of a decoder: drain commands, plan, publish the last step's events, launch, wait, apply.

use std::sync::Arc;
use std::task::Waker;

use scheduler::limits::Limits;
use scheduler::plan::{Event, Outcome, Plan, Sampled, Stats};
use scheduler::request::{Finish, Micros, Reject, RequestId, Token};
use scheduler::scheduler::Scheduler;

use crate::clock::{after, seconds};
use crate::decoder::{Decoder, Submission};
use crate::executor::{Executor, ExecutorError, Row, Rows};
use crate::frame::Beat;
use crate::handle::{End, Generated, Refusal};
use crate::hash::Sha256Hasher;
use crate::inbox::Orders;
use crate::ledger::{Ledger, Stream};
use crate::sampling::Sampling;

/// Why a life's loop returned.
pub(crate) enum Stop {
    Drained,
    Superseded,
    Failed(ExecutorError),
}

impl From<ExecutorError> for Stop {
    fn from(error: ExecutorError) -> Self {
        Self::Failed(error)
    }
}

/// What an executor is told before the first plan that names a request.
struct Admission {
    id: RequestId,
    sampling: Arc<Sampling>,
    prompt: Arc<[Token]>,
    generated: Vec<Token>,
}

/// One executor's time in the loop. Every buffer is reused from step to step.
pub(crate) struct Life<'a> {
    decoder: &'a Decoder,
    number: u64,
    executor: Box<dyn Executor>,
    scheduler: Scheduler,
    recorded: Stats,
    orders: Orders<Submission>,
    plan: Plan,
    rows: Rows,
    outcome: Outcome,
    /// What the scheduler reported and the readers have not heard.
    events: Vec<Event>,
    admissions: Vec<Admission>,
    releases: Vec<RequestId>,
    stalled: Vec<RequestId>,
    readers: Vec<Waker>,
}

impl<'a> Life<'a> {
    pub(crate) fn new(decoder: &'a Decoder, life: u64, executor: Box<dyn Executor>) -> Self {
        let (pool, limits) = (executor.pool(), decoder.config.limits);
        decoder.metrics.pool(pool);
        // `waiting_max` is kept by `submit` below. The scheduler's own queue has room for everything
        // that can be in flight, so that a replay is never refused.
        let limits = Limits {
            waiting_max: limits.waiting_max.saturating_add(limits.running_max),
            ..limits
        };
        Self {
            decoder,
            number: life,
            executor,
            scheduler: Scheduler::new(limits, pool, Box::new(Sha256Hasher)),
            recorded: Stats::default(),
            orders: Orders::default(),
            plan: Plan::default(),
            rows: Rows::default(),
            outcome: Outcome::default(),
            events: Vec::new(),
            admissions: Vec::new(),
            releases: Vec::new(),
            stalled: Vec::new(),
            readers: Vec::new(),
        }
    }

    pub(crate) fn run(&mut self, beat: &Beat) -> Stop {
        let frame = &self.decoder.frame;
        beat.begin(frame.clock.now());
        if let Err(stop) = self.replay() {
            return stop;
        }
        self.record_stats();
        frame.serve(|| self.decoder.inbox.is_draining());
        loop {
            match self.step(beat) {
                Ok(true) => {}
                Ok(false) => {
                    beat.rest();
                    self.park();
                }
                Err(stop) => return stop,
            }
        }
    }

    /// One turn of the loop. Returns whether there was anything to do.
    fn step(&mut self, beat: &Beat) -> Result<bool, Stop> {
        let clock = &self.decoder.frame.clock;
        let now = clock.now();
        beat.begin(now);
        self.carry_out_orders(now)?;
        self.scheduler.plan(now, &mut self.plan, &mut self.events);
        self.tell_executor()?;
        if self.plan.is_empty() {
            let news = !self.events.is_empty();
            self.publish(now)?;
            self.record_stats();
            if self.orders.draining && self.scheduler.is_idle() {
                return Err(Stop::Drained);
            }
            return Ok(news);
        }
        // Before the launch, because an executor may compute in it: the last step's tokens are not to
        // wait for the next step. A device of its own is kept busy by `depth_max` 2, not by this.
        self.publish(now)?;
        self.record_stats();
        self.executor.launch(&self.plan)?;
        self.executor.wait(&mut self.rows)?;
        let done = clock.now();
        self.decoder
            .metrics
            .step(seconds(now, done), self.plan.tokens.len());
        self.apply(done)?;
        Ok(true)
    }

    /// Sleeps until an order comes or a deadline passes.
    fn park(&self) {
        let clock = &self.decoder.frame.clock;
        let sleep_max = self
            .scheduler
            .deadline()
            .and_then(|deadline| clock.sleep_max(deadline));
        self.decoder.inbox.park(sleep_max);
    }

    // === from callers to the scheduler ===

    /// Submits again what an earlier life left behind.
    fn replay(&mut self) -> Result<(), Stop> {
        let decoder = self.decoder;
        let now = decoder.frame.clock.now();
        let mut guard = decoder.ledger(self.number)?;
        let ledger = &mut *guard;
        for id in ledger.ids() {
            let Some(stream) = ledger.streams.get(&id) else {
                continue;
            };
            let tenant = ledger.tenants.number(&stream.tenant);
            let end = match self.scheduler.submit(stream.request(id, tenant), now) {
                Ok(()) => continue,
                Err(Reject::Expired) => End::Finish(Finish::Deadline),
                Err(_) => End::EngineDown,
            };
            self.readers.extend(decoder.end(ledger, id, end, now));
        }
        drop(guard);
        self.readers.drain(..).for_each(Waker::wake);
        Ok(())
    }

    fn carry_out_orders(&mut self, now: Micros) -> Result<(), Stop> {
        let decoder = self.decoder;
        let mut ledger = decoder.ledger(self.number)?;
        let mut orders = std::mem::take(&mut self.orders);
        decoder.inbox.take(&mut orders);
        for submission in orders.submissions.drain(..) {
            self.submit(&mut ledger, submission, now);
        }
        for id in orders.aborts.drain(..) {
            if let Some(stream) = ledger.streams.get(&id) {
                decoder.metrics.cancelled(stream.phase());
                self.scheduler.abort(id, &mut self.events);
            }
        }
        if orders.abort_all {
            for id in ledger.ids() {
                self.scheduler.abort(id, &mut self.events);
            }
        }
        for id in self.stalled.drain(..) {
            self.scheduler.abort(id, &mut self.events);
        }
        self.orders = orders;
        Ok(())
    }

    fn submit(&mut self, ledger: &mut Ledger, submission: Submission, now: Micros) {
        let Submission {
            id,
            stream,
            verdict,
        } = submission;
        let waiting = self.scheduler.stats().waiting;
        let result = if waiting >= self.decoder.config.limits.waiting_max {
            Err(Reject::QueueFull { waiting })
        } else {
            let tenant = ledger.tenants.enter(&stream.tenant);
            let result = self.scheduler.submit(stream.request(id, tenant), now);
            if result.is_err() {
                ledger.tenants.leave(&stream.tenant);
            }
            result
        };
        let result = result.map_err(Refusal::Reject);
        match &result {
            Ok(()) => drop(ledger.streams.insert(id, stream)),
            Err(refusal) => self.decoder.frame.metrics.refused(refusal),
        }
        // A caller who is gone has left an abort.
        drop(verdict.send(result));
    }

    // === from the scheduler to the executor and back ===

    /// Announces started requests and lets go of finished ones. The ledger is not locked while the
    /// executor works, so that a hanging executor does not hold it.
    fn tell_executor(&mut self) -> Result<(), Stop> {
        if self.events.is_empty() {
            return Ok(());
        }
        let mut ledger = self.decoder.ledger(self.number)?;
        for event in &self.events {
            match *event {
                Event::Token { .. } => {}
                Event::Started { id, .. } => {
                    if let Some(stream) = ledger.streams.get_mut(&id) {
                        stream.admitted = true;
                        self.admissions.push(Admission {
                            id,
                            sampling: Arc::clone(&stream.sampling),
                            prompt: Arc::clone(&stream.prompt),
                            generated: stream.generated.clone(),
                        });
                    }
                }
                Event::Finished { id, .. } => {
                    if ledger.streams.get(&id).is_some_and(|s| s.admitted) {
                        self.releases.push(id);
                    }
                }
            }
        }
        drop(ledger);
        for admission in self.admissions.drain(..) {
            let Admission {
                id,
                sampling,
                prompt,
                generated,
            } = admission;
            self.executor.admit(id, &sampling, &prompt, &generated);
        }
        for id in self.releases.drain(..) {
            self.executor.release(id);
        }
        Ok(())
    }

    /// Hands the sampled rows to the scheduler.
    fn apply(&mut self, now: Micros) -> Result<(), Stop> {
        if self.rows.step != self.plan.step {
            let (planned, answered) = (self.plan.step, self.rows.step);
            let text = format!("step {planned} was planned, step {answered} was answered");
            return Err(Stop::Failed(ExecutorError::Failed(text)));
        }
        let mut ledger = self.decoder.ledger(self.number)?;
        self.outcome.step = self.rows.step;
        self.outcome.sampled.clear();
        for (id, row) in self.rows.rows.drain(..) {
            let sampled = match row {
                Row::NotFinite => {
                    self.decoder.frame.metrics.not_finite();
                    Sampled::Fault
                }
                Row::Token { drawn, top } => match ledger.streams.get_mut(&id) {
                    None => Sampled::Token(drawn.token),
                    Some(stream) => {
                        stream.pending = Some(Generated {
                            token: drawn.token,
                            logprob: drawn.logprob,
                            top,
                        });
                        if stream.sampling.stop_tokens.contains(&drawn.token) {
                            Sampled::Last(drawn.token)
                        } else {
                            Sampled::Token(drawn.token)
                        }
                    }
                },
            };
            self.outcome.sampled.push((id, sampled));
        }
        drop(ledger);
        self.scheduler.apply(&self.outcome, now, &mut self.events);
        Ok(())
    }

    // === from the scheduler to callers ===

    /// Gives every event to its reader, and wakes the readers that sleep.
    fn publish(&mut self, now: Micros) -> Result<(), Stop> {
        let decoder = self.decoder;
        // Also without news: a superseded life must not go on.
        let mut ledger = decoder.ledger(self.number)?;
        if self.events.is_empty() {
            return Ok(());
        }
        let mut events = std::mem::take(&mut self.events);
        let mut generated = 0;
        for event in events.drain(..) {
            let reader = match event {
                Event::Started { id, cached_tokens } => {
                    let stream = ledger.streams.get_mut(&id);
                    stream.and_then(|stream| decoder.started(stream, cached_tokens, now))
                }
                Event::Token { id, token } => {
                    generated += 1;
                    let stream = ledger.streams.get_mut(&id);
                    stream.and_then(|stream| self.token(stream, (id, token), now))
                }
                Event::Finished { id, finish } => {
                    decoder.end(&mut ledger, id, End::Finish(finish), now)
                }
            };
            self.readers.extend(reader);
        }
        drop(ledger);
        self.events = events;
        self.readers.drain(..).for_each(Waker::wake);
        decoder.metrics.generated(generated);
        Ok(())
    }

    /// One token for one reader, who may turn out to have left.
    fn token(
        &mut self,
        stream: &mut Stream,
        (id, token): (RequestId, Token),
        now: Micros,
    ) -> Option<Waker> {
        let pending = stream.pending.take()?;
        assert_eq!(
            pending.token, token,
            "{id:?} is told another token than it sampled"
        );
        let metrics = &self.decoder.metrics;
        if stream.generated.is_empty() {
            metrics.first_token(seconds(stream.arrived, now));
        } else {
            metrics.next_token(seconds(stream.token_at, now));
        }
        stream.token_at = now;
        stream.failures = 0;
        stream.generated.push(token);
        let (reader, unread_since) = stream.mailbox.push(pending, now);
        let stalled = after(unread_since, self.decoder.config.stall_timeout) <= now;
        if stalled && stream.ending.is_none() {
            stream.ending = Some(End::Stalled);
            self.stalled.push(id);
        }
        reader
    }

    fn record_stats(&mut self) {
        let stats = self.scheduler.stats();
        self.decoder.record_stats(&self.recorded, stats);
        self.recorded = stats;
    }
}

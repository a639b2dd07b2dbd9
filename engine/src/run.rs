//! The loop of a decoder: drain commands, plan, launch, publish the last step's events, wait, apply.
//!
//! With `depth_max` 2 a step is planned and launched while the one before it is being computed, so
//! that the device never waits for the host: tokens that are not sampled yet are placeholders in the
//! plan, and what a sequence computed beyond its end is dropped (`docs/adr/0009-overlap.md`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use scheduler::cache::CacheChanges;
use scheduler::limits::Limits;
use scheduler::plan::{Event, Outcome, Plan, Sampled, Stats};
use scheduler::request::{Finish, Micros, Reject, RequestId, Token};
use scheduler::scheduler::Scheduler;

use crate::beat::Beat;
use crate::clock::{after, seconds};
use crate::decoder::{Decoder, Submission, in_flight_max};
use crate::executor::{Executor, ExecutorError, Row, Rows};
use crate::flights::Flights;
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
    /// Tokens of one KV block.
    block_tokens: usize,
    changes: CacheChanges,
    recorded: Stats,
    orders: Orders<Submission>,
    returning: Returning,
    flights: Flights,
    rows: Rows,
    outcome: Outcome,
    /// What the scheduler reported and the readers have not heard.
    events: Vec<Event>,
    admissions: Vec<Admission>,
    stalled: Vec<RequestId>,
    readers: Vec<Waker>,
}

/// What an earlier life left behind, on its way back to the scheduler. Who was being computed when
/// that life failed may have been the cause. So these come first, one at a time, each until its
/// first token; then come those who waited, and then whoever is new.
#[derive(Debug, Default)]
struct Returning {
    /// Who is still to come, the suspects first.
    ids: VecDeque<RequestId>,
    /// The suspect whose turn it is.
    on_trial: Option<RequestId>,
    /// Came while nobody could be let in.
    late: Vec<Submission>,
    /// Whether all are back.
    done: bool,
}

impl<'a> Life<'a> {
    pub(crate) fn new(decoder: &'a Decoder, life: u64, executor: Box<dyn Executor>) -> Self {
        let (pool, limits) = (executor.pool(), decoder.config.limits);
        decoder.metrics.pool(pool);
        // The bound is kept by `submit` below. The scheduler's own queue has room for everything that
        // can be in flight, so that a replay is never refused.
        let limits = Limits {
            waiting_max: in_flight_max(&limits),
            ..limits
        };
        let policy = decoder.config.policy;
        let hasher = Box::new(Sha256Hasher);
        let mut scheduler = Scheduler::with_policy(limits, policy, pool, hasher);
        scheduler.watch_cache();
        decoder.kv_log.clear();
        Self {
            decoder,
            number: life,
            executor,
            scheduler,
            block_tokens: pool.block_tokens.get() as usize,
            changes: CacheChanges::default(),
            recorded: Stats::default(),
            orders: Orders::default(),
            returning: Returning::default(),
            flights: Flights::new(limits.depth_max),
            rows: Rows::default(),
            outcome: Outcome::default(),
            events: Vec::new(),
            admissions: Vec::new(),
            stalled: Vec::new(),
            readers: Vec::new(),
        }
    }

    pub(crate) fn run(&mut self, beat: &Beat) -> Stop {
        if let Err(stop) = self.take_over() {
            return stop;
        }
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
        if !self.returning.done {
            self.readmit(now)?;
        }
        let launched = self.launch(now)?;
        // Readers get the last step's tokens while the device computes this one.
        let news = !self.events.is_empty();
        self.publish(now)?;
        self.record();
        self.release();
        if self.flights.is_full() || !(launched || self.flights.is_empty()) {
            self.land(beat)?;
            return Ok(true);
        }
        // Whoever is still to come back is known to no scheduler yet.
        if self.orders.draining && self.returning.done && self.scheduler.is_idle() {
            return Err(Stop::Drained);
        }
        Ok(launched || news)
    }

    /// Plans a step and launches it. Returns whether there was anything to compute.
    fn launch(&mut self, now: Micros) -> Result<bool, Stop> {
        let mut plan = self.flights.blank();
        self.scheduler.plan(now, &mut plan, &mut self.events);
        self.announce(&plan)?;
        if plan.is_empty() {
            self.flights.spare(plan);
            return Ok(false);
        }
        let launched = self.decoder.frame.clock.now();
        self.executor.launch(&plan)?;
        self.flights.push(plan, launched);
        Ok(true)
    }

    /// Waits for the oldest step in flight and applies it.
    fn land(&mut self, beat: &Beat) -> Result<(), Stop> {
        self.executor.wait(&mut self.rows)?;
        let now = self.decoder.frame.clock.now();
        beat.done(now);
        self.answers_the_oldest()?;
        let landed = self.flights.land(now);
        self.decoder
            .metrics
            .step(seconds(landed.begun, now), landed.positions);
        let took = now.0.saturating_sub(landed.begun.0);
        self.scheduler.observe(Micros(took));
        self.apply(landed.step, now)
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

    /// Notes what an earlier life left behind.
    fn take_over(&mut self) -> Result<(), Stop> {
        let mut ledger = self.decoder.ledger(self.number)?;
        ledger.taken = true;
        let failures = |id: &RequestId| ledger.streams.get(id).map_or(0, |s| s.failures);
        let (suspects, others): (Vec<_>, Vec<_>) =
            ledger.ids().into_iter().partition(|id| failures(id) > 0);
        self.returning.ids = suspects.into_iter().chain(others).collect();
        Ok(())
    }

    /// Submits again what an earlier life left behind, as far as that is possible now. Serves when
    /// all of it is back.
    fn readmit(&mut self, now: Micros) -> Result<(), Stop> {
        let decoder = self.decoder;
        let mut guard = decoder.ledger(self.number)?;
        let ledger = &mut *guard;
        self.expire_returning(ledger, now);
        let is_suspect = |ledger: &Ledger, id: RequestId| {
            ledger.streams.get(&id).is_some_and(|s| s.failures > 0)
        };
        if self
            .returning
            .on_trial
            .is_some_and(|id| is_suspect(ledger, id))
        {
            return Ok(());
        }
        self.returning.on_trial = None;
        while let Some(id) = self.returning.ids.pop_front() {
            let Some(stream) = ledger.streams.get(&id) else {
                continue;
            };
            let tenant = ledger.tenants.number(&stream.tenant);
            self.scheduler.weigh(tenant, stream.weight);
            match self.scheduler.resubmit(stream.request(id, tenant), now) {
                Ok(()) if is_suspect(ledger, id) => {
                    self.returning.on_trial = Some(id);
                    return Ok(());
                }
                Ok(()) => {}
                Err(Reject::Expired) => self.end(ledger, id, Finish::Deadline, now),
                Err(_) => {
                    let reader = decoder.end(ledger, id, End::EngineDown, now);
                    self.readers.extend(reader);
                }
            }
        }
        for submission in std::mem::take(&mut self.returning.late) {
            // Whose caller is gone has left an abort, which came too early.
            if !submission.verdict.is_closed() {
                self.submit(ledger, submission, now);
            }
        }
        drop(guard);
        self.readers.drain(..).for_each(Waker::wake);
        self.returning.done = true;
        self.record();
        decoder.frame.serve(|| decoder.inbox.is_draining());
        Ok(())
    }

    /// The scheduler cannot yet see to the deadlines of those who are still to come.
    fn expire_returning(&mut self, ledger: &mut Ledger, now: Micros) {
        let expired = |id: &RequestId| {
            let stream = ledger.streams.get(id);
            stream.is_some_and(|s| s.deadline.is_some_and(|deadline| deadline <= now))
        };
        let expired: Vec<_> = self.returning.ids.iter().copied().filter(expired).collect();
        for id in expired {
            self.end(ledger, id, Finish::Deadline, now);
        }
    }

    /// Ends a stream that the scheduler does not know.
    fn end(&mut self, ledger: &mut Ledger, id: RequestId, finish: Finish, now: Micros) {
        let reader = self.decoder.end(ledger, id, End::Finish(finish), now);
        self.readers.extend(reader);
    }

    fn carry_out_orders(&mut self, now: Micros) -> Result<(), Stop> {
        let decoder = self.decoder;
        let mut ledger = decoder.ledger(self.number)?;
        let mut orders = std::mem::take(&mut self.orders);
        decoder.inbox.take(&mut orders);
        if self.returning.done {
            for submission in orders.submissions.drain(..) {
                self.submit(&mut ledger, submission, now);
            }
        } else {
            self.returning.late.append(&mut orders.submissions);
        }
        for id in orders.stops.drain(..) {
            if let Some(stream) = ledger.streams.get_mut(&id) {
                stream.ending.get_or_insert(End::Finish(Finish::Stop));
                self.abort(&mut ledger, id, now);
            }
        }
        for id in orders.aborts.drain(..) {
            if let Some(stream) = ledger.streams.get(&id) {
                decoder.metrics.cancelled(stream.phase());
                self.abort(&mut ledger, id, now);
            }
        }
        if !orders.flushes.is_empty() {
            let blocks = self.scheduler.flush_cache();
            for asked in orders.flushes.drain(..) {
                // Who is gone does not want to know.
                let _gone = asked.send(blocks);
            }
        }
        if orders.abort_all {
            // Dropped verdicts tell their callers that the engine is unavailable.
            self.returning.late.clear();
            for id in ledger.ids() {
                self.abort(&mut ledger, id, now);
            }
        }
        for id in std::mem::take(&mut self.stalled) {
            self.abort(&mut ledger, id, now);
        }
        self.orders = orders;
        Ok(())
    }

    fn abort(&mut self, ledger: &mut Ledger, id: RequestId, now: Micros) {
        if self.returning.ids.contains(&id) {
            self.end(ledger, id, Finish::Abort, now);
        } else {
            self.scheduler.abort(id, &mut self.events);
        }
    }

    fn submit(&mut self, ledger: &mut Ledger, submission: Submission, now: Micros) {
        let Submission {
            id,
            stream,
            verdict,
        } = submission;
        let Stats {
            waiting, running, ..
        } = self.scheduler.stats();
        // Who waits for a slot that is free does not wait for long: slots and queue are one bound.
        let result = if waiting + running >= in_flight_max(&self.decoder.config.limits) {
            Err(Reject::QueueFull { waiting })
        } else {
            let tenant = ledger.tenants.enter(&stream.tenant);
            self.scheduler.weigh(tenant, stream.weight);
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

    /// Notes whom the executor is about to work for, and announces the new ones to it. The ledger is
    /// not locked while the executor works, so that a hanging executor does not hold it.
    fn announce(&mut self, plan: &Plan) -> Result<(), Stop> {
        let mut ledger = self.decoder.ledger(self.number)?;
        ledger.planned.clear();
        ledger.planned.extend(self.flights.ids());
        ledger
            .planned
            .extend(plan.slices.iter().map(|slice| slice.id));
        for event in &self.events {
            match *event {
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
                        self.flights.release_behind(id);
                    }
                }
                Event::Preempted { .. } | Event::Token { .. } => {}
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
        Ok(())
    }

    /// Refuses rows of another step than the one that was waited for.
    fn answers_the_oldest(&self) -> Result<(), ExecutorError> {
        let (planned, answered) = (self.flights.oldest(), self.rows.step);
        if planned == Some(answered) {
            return Ok(());
        }
        let text = format!("step {planned:?} was planned, step {answered} was answered");
        Err(ExecutorError::Failed(text))
    }

    /// Hands the sampled rows to the scheduler.
    fn apply(&mut self, step: u64, now: Micros) -> Result<(), Stop> {
        let mut ledger = self.decoder.ledger(self.number)?;
        self.outcome.step = step;
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
        if self.events.is_empty() && self.readers.is_empty() {
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
                Event::Preempted { id } => {
                    let stream = ledger.streams.get(&id);
                    stream.and_then(|stream| stream.mailbox.preempted())
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

    /// Lets the executor forget whom no step in flight names any longer.
    fn release(&mut self) {
        while let Some(id) = self.flights.released() {
            self.executor.release(id);
        }
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

    fn record(&mut self) {
        // First, so that whoever sees these counts has missed none of the changes behind them.
        self.scheduler.take_cache_changes(&mut self.changes);
        self.decoder.kv_log.extend(&self.changes, self.block_tokens);
        let stats = self.scheduler.stats();
        self.decoder.record_stats(&self.recorded, stats);
        self.recorded = stats;
    }
}

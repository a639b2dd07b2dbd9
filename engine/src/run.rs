//! The loop of a decoder: drain commands, plan, launch, publish the last step's events, wait, apply.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

use scheduler::limits::Limits;
use scheduler::plan::{Event, Outcome, Plan, Sampled, Stats};
use scheduler::request::{Finish, Micros, Reject, RequestId, Token};
use scheduler::scheduler::Scheduler;
use tokio::sync::oneshot;

use crate::clock::{after, seconds};
use crate::config::EngineConfig;
use crate::executor::{Executor, ExecutorError, Row, Rows};
use crate::frame::{Beat, Frame, Work};
use crate::handle::{End, Factory, Generate, Generated, Refusal};
use crate::hash::{Roots, Sha256Hasher};
use crate::inbox::{Inbox, Orders, lock};
use crate::ledger::{Ledger, Stream};
use crate::mailbox::Mailbox;
use crate::record::{DecoderMetrics, Ended};
use crate::sampling::Sampling;

/// A generation on its way to the loop.
#[derive(Debug)]
pub(crate) struct Submission {
    id: RequestId,
    stream: Box<Stream>,
    verdict: oneshot::Sender<Result<(), Refusal>>,
}

/// A decoder's engine: what its handles and its lives share.
pub(crate) struct Decoder {
    pub(crate) frame: Frame,
    pub(crate) inbox: Inbox<Submission>,
    config: EngineConfig,
    roots: Roots,
    ids: AtomicU64,
    metrics: DecoderMetrics,
    stats: Mutex<Stats>,
    ledger: Mutex<Ledger>,
    factory: Mutex<Factory<dyn Executor>>,
}

/// What a caller holds after a submission: the id, its mailbox, and the verdict to come.
pub(crate) type Submitted = (
    RequestId,
    Arc<Mailbox>,
    oneshot::Receiver<Result<(), Refusal>>,
);

impl Decoder {
    pub(crate) fn new(factory: Factory<dyn Executor>, config: EngineConfig) -> Self {
        let clock = Arc::clone(&config.clock);
        Self {
            frame: Frame::new(
                config.name.clone(),
                clock,
                config.step_timeout,
                config.restarts,
            ),
            inbox: Inbox::new(config.limits.waiting_max),
            roots: Roots::new(&config.identity),
            ids: AtomicU64::new(1),
            metrics: DecoderMetrics::new(&config.name),
            stats: Mutex::default(),
            ledger: Mutex::default(),
            factory: Mutex::new(factory),
            config,
        }
    }

    /// Leaves a request in the inbox.
    pub(crate) fn submit(&self, request: Generate) -> Result<Submitted, Refusal> {
        let submitted = self
            .frame
            .admit()
            .and_then(|()| self.leave_in_inbox(request));
        submitted.inspect_err(|refusal| self.frame.metrics.refused(refusal))
    }

    fn leave_in_inbox(&self, request: Generate) -> Result<Submitted, Refusal> {
        let id = RequestId(self.ids.fetch_add(1, Ordering::Relaxed));
        let mailbox = Arc::new(Mailbox::default());
        let (verdict, receiver) = oneshot::channel();
        let arrived = self.frame.clock.now();
        let stream = Box::new(Stream {
            root: self.roots.root(&request.tenant, &request.cache_salt),
            prompt: request.prompt,
            sampling: Arc::new(request.sampling),
            output_max: request.output_max,
            priority: request.priority,
            arrived,
            deadline: request.timeout.map(|timeout| after(arrived, timeout)),
            tenant: request.tenant,
            mailbox: Arc::clone(&mailbox),
            generated: Vec::new(),
            pending: None,
            token_at: arrived,
            started: false,
            admitted: false,
            failures: 0,
            ending: None,
        });
        self.inbox.submit(Submission {
            id,
            stream,
            verdict,
        })?;
        Ok((id, mailbox, receiver))
    }

    pub(crate) fn stats(&self) -> Stats {
        *lock(&self.stats)
    }

    /// The ledger, if it is still in the care of `life`.
    fn ledger(&self, life: u64) -> Result<MutexGuard<'_, Ledger>, Stop> {
        let ledger = lock(&self.ledger);
        if ledger.life == life {
            Ok(ledger)
        } else {
            Err(Stop::Superseded)
        }
    }

    /// Takes a stream out and tells its reader why. Returns whom to wake.
    fn end(&self, ledger: &mut Ledger, id: RequestId, end: End, now: Micros) -> Option<Waker> {
        let stream = ledger.streams.remove(&id)?;
        let end = stream.ending.unwrap_or(end);
        ledger.tenants.leave(&stream.tenant);
        self.metrics.ended(Ended {
            end,
            phase: stream.phase(),
            seconds: seconds(stream.arrived, now),
            prompt_tokens: stream.prompt.len(),
            generated_tokens: stream.generated.len(),
        });
        stream.mailbox.end(end)
    }
}

impl Work for Decoder {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn live(&self, life: u64, beat: &Beat) -> Result<(), ExecutorError> {
        let executor = (lock(&self.factory))()?;
        match Life::new(self, life, executor).run(beat) {
            Stop::Drained | Stop::Superseded => Ok(()),
            Stop::Failed(error) => Err(error),
        }
    }

    fn supersede(&self, next: u64) {
        let now = self.frame.clock.now();
        let mut ledger = lock(&self.ledger);
        ledger.life = next;
        for id in ledger.ids() {
            let Some(stream) = ledger.streams.get_mut(&id) else {
                continue;
            };
            stream.pending = None;
            stream.failures += u32::from(stream.admitted);
            stream.admitted = false;
            let lost = stream.failures >= FAILURES_MAX;
            if lost || stream.ending.is_some() || stream.is_abandoned() {
                let end = if lost {
                    End::EngineDown
                } else {
                    End::Finish(Finish::Abort)
                };
                let waker = self.end(&mut ledger, id, end, now);
                waker.into_iter().for_each(Waker::wake);
            }
        }
        *lock(&self.stats) = Stats::default();
    }

    fn close(&self) {
        // Dropped verdicts tell their callers that the engine is unavailable.
        drop(self.inbox.close());
        let now = self.frame.clock.now();
        let mut ledger = lock(&self.ledger);
        for id in ledger.ids() {
            let waker = self.end(&mut ledger, id, End::EngineDown, now);
            waker.into_iter().for_each(Waker::wake);
        }
    }

    fn wake(&self) {
        self.inbox.wake();
    }
}

/// Why a life's loop returned.
enum Stop {
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
struct Life<'a> {
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
    fn new(decoder: &'a Decoder, life: u64, executor: Box<dyn Executor>) -> Self {
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

    fn run(&mut self, beat: &Beat) -> Stop {
        let frame = &self.decoder.frame;
        beat.begin(frame.clock.now());
        if let Err(stop) = self.replay() {
            return stop;
        }
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
        self.executor.launch(&self.plan)?;
        self.publish(now)?;
        self.record_stats();
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
        self.decoder.metrics.stats(&self.recorded, &stats);
        self.recorded = stats;
        *lock(&self.decoder.stats) = stats;
    }
}

impl Decoder {
    /// Tells the reader of the start, unless an earlier life has.
    fn started(&self, stream: &mut Stream, cached_tokens: u32, now: Micros) -> Option<Waker> {
        if stream.started {
            return None;
        }
        stream.started = true;
        let queue_seconds = seconds(stream.arrived, now);
        self.metrics.started(queue_seconds, stream.prompt.len());
        stream.mailbox.start(cached_tokens, now)
    }
}

/// Failures running, without a token in between, after which a request that was there each time is
/// not replayed again.
const FAILURES_MAX: u32 = 2;

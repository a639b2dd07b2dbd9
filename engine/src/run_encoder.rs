//! The loop of an encoder: drain commands, plan a batch, encode it, answer.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use scheduler::encode::{Dropped, EncodeBatcher, EncodeLimits};
use scheduler::request::{Micros, Reject, RequestId};
use tokio::sync::oneshot;

use crate::beat::Beat;
use crate::clock::{after, between, seconds};
use crate::config::EncodeConfig;
use crate::executor::{EncodeInput, Encoded, Encoder, ExecutorError};
use crate::frame::{Frame, Work};
use crate::handle::{EncodeError, EncodeTimes, Factory, Refusal};
use crate::inbox::{Inbox, Orders, lock};
use crate::record::{EncoderMetrics, Outcome};

type Answer = Result<(Encoded, EncodeTimes), EncodeError>;

/// One input from its submission to its answer.
#[derive(Debug)]
struct Job {
    input: EncodeInput,
    arrived: Micros,
    deadline: Option<Micros>,
    answer: oneshot::Sender<Answer>,
    /// Whether it is in the batch that is being computed.
    batched: bool,
    /// Failed batches it was in.
    failures: u32,
}

/// The inputs of one engine, in the care of one life at a time.
#[derive(Debug, Default)]
struct Jobs {
    life: u64,
    /// Whether that life sees to deadlines and aborts by now; until then its supervisor does.
    taken: bool,
    of: HashMap<RequestId, Job>,
}

impl Jobs {
    /// The inputs' ids in order of arrival.
    fn ids(&self) -> Vec<RequestId> {
        let mut ids: Vec<_> = self.of.keys().copied().collect();
        ids.sort_unstable();
        ids
    }
}

/// An encoder's engine: what its handles and its lives share.
pub(crate) struct EncodeEngine {
    pub(crate) frame: Frame,
    pub(crate) inbox: Inbox<(RequestId, Submission)>,
    limits: EncodeLimits,
    ids: AtomicU64,
    waiting: AtomicU32,
    metrics: EncoderMetrics,
    jobs: Mutex<Jobs>,
    factory: Mutex<Factory<dyn Encoder>>,
}

/// An input on its way to the loop.
#[derive(Debug)]
pub(crate) struct Submission(Job);

impl EncodeEngine {
    pub(crate) fn new(factory: Factory<dyn Encoder>, config: EncodeConfig) -> Self {
        let EncodeConfig {
            name,
            limits,
            timeouts,
            restarts,
            clock,
        } = config;
        Self {
            metrics: EncoderMetrics::new(&name),
            frame: Frame::new(name, clock, timeouts, restarts),
            inbox: Inbox::new(limits.waiting_max),
            limits,
            ids: AtomicU64::new(1),
            waiting: AtomicU32::new(0),
            jobs: Mutex::default(),
            factory: Mutex::new(factory),
        }
    }

    /// Leaves an input in the inbox.
    pub(crate) fn submit(
        &self,
        input: EncodeInput,
        timeout: Option<Duration>,
    ) -> Result<(RequestId, oneshot::Receiver<Answer>), Refusal> {
        let (answer, receiver) = oneshot::channel();
        let id = RequestId(self.ids.fetch_add(1, Ordering::Relaxed));
        let arrived = self.frame.clock.now();
        let submission = Submission(Job {
            input,
            arrived,
            deadline: timeout.map(|timeout| after(arrived, timeout)),
            answer,
            batched: false,
            failures: 0,
        });
        self.frame
            .admit()
            .and_then(|()| self.inbox.submit((id, submission)))
            .inspect_err(|refusal| self.frame.metrics.refused(refusal))?;
        Ok((id, receiver))
    }

    /// Inputs that wait, those in the inbox included.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed) + self.inbox.submissions()
    }

    /// The jobs, if they are still in the care of `life`.
    fn jobs(&self, life: u64) -> Result<MutexGuard<'_, Jobs>, Stop> {
        let jobs = lock(&self.jobs);
        if jobs.life == life {
            Ok(jobs)
        } else {
            Err(Stop::Superseded)
        }
    }

    fn record_waiting(&self, waiting: u32) {
        self.waiting.store(waiting, Ordering::Relaxed);
        self.metrics.waiting.set(f64::from(waiting));
    }

    /// Takes a job out and answers it.
    fn answer(&self, jobs: &mut Jobs, id: RequestId, answer: Answer, now: Micros) {
        let Some(job) = jobs.of.remove(&id) else {
            return;
        };
        let outcome = match &answer {
            Ok(_) => Outcome::Encoded,
            Err(EncodeError::Deadline) => Outcome::Deadline,
            Err(EncodeError::Failed) => Outcome::Failed,
            Err(EncodeError::Refused(_)) => Outcome::Abort,
        };
        self.metrics.ended(outcome, seconds(job.arrived, now));
        // The caller may be gone.
        drop(job.answer.send(answer));
    }
}

impl Work for EncodeEngine {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn live(&self, life: u64, beat: &Arc<Beat>) -> Result<(), ExecutorError> {
        let mut encoder = (lock(&self.factory))()?;
        encoder.report_to(self.frame.progress(beat));
        match Life::new(self, life, encoder).run(beat) {
            Stop::Drained | Stop::Superseded => Ok(()),
            Stop::Failed(error) => Err(error),
        }
    }

    fn supersede(&self, next: u64) {
        let now = self.frame.clock.now();
        let mut jobs = lock(&self.jobs);
        jobs.life = next;
        jobs.taken = false;
        for id in jobs.ids() {
            let Some(job) = jobs.of.get_mut(&id) else {
                continue;
            };
            job.failures += u32::from(job.batched);
            job.batched = false;
            if job.failures >= FAILURES_MAX {
                self.answer(&mut jobs, id, Err(EncodeError::Failed), now);
            } else if job.answer.is_closed() {
                let gone = Err(EncodeError::Refused(Refusal::Unavailable));
                self.answer(&mut jobs, id, gone, now);
            }
        }
        self.record_waiting(jobs.of.len() as u32);
    }

    fn tend(&self, now: Micros) -> Option<Micros> {
        let mut jobs = lock(&self.jobs);
        if jobs.taken {
            return None;
        }
        let everything = self.inbox.take_abort_all();
        let mut next = None;
        for id in jobs.ids() {
            let deadline = jobs.of.get(&id).and_then(|job| job.deadline);
            if everything {
                let abort = Err(EncodeError::Refused(Refusal::Draining));
                self.answer(&mut jobs, id, abort, now);
            } else if deadline.is_some_and(|deadline| deadline <= now) {
                self.answer(&mut jobs, id, Err(EncodeError::Deadline), now);
            } else {
                next = next.into_iter().chain(deadline).min();
            }
        }
        next
    }

    fn is_idle(&self) -> bool {
        lock(&self.jobs).of.is_empty() && self.inbox.submissions() == 0
    }

    fn close(&self) {
        // Dropped answers tell their callers that the engine is unavailable.
        drop(self.inbox.close());
        let now = self.frame.clock.now();
        let mut jobs = lock(&self.jobs);
        for id in jobs.ids() {
            let unavailable = Err(EncodeError::Refused(Refusal::Unavailable));
            self.answer(&mut jobs, id, unavailable, now);
        }
        self.record_waiting(0);
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

/// One encoder's time in the loop. Every buffer is reused from batch to batch.
struct Life<'a> {
    engine: &'a EncodeEngine,
    number: u64,
    encoder: Box<dyn Encoder>,
    batcher: EncodeBatcher,
    /// Inputs of the batch that failed in an earlier life, which may be the cause. Each is a batch
    /// of its own, before all others.
    suspects: VecDeque<RequestId>,
    orders: Orders<(RequestId, Submission)>,
    batch: Vec<RequestId>,
    dropped: Vec<Dropped>,
    inputs: Vec<EncodeInput>,
    /// What the batch gave; each result moves to its caller.
    encoded: Vec<Encoded>,
}

impl<'a> Life<'a> {
    fn new(engine: &'a EncodeEngine, life: u64, encoder: Box<dyn Encoder>) -> Self {
        let limits = engine.limits;
        // `waiting_max` is kept by `submit` below. The batcher's own queue has room for a batch
        // more, so that a replay is never refused.
        let limits = EncodeLimits {
            waiting_max: limits.waiting_max.saturating_add(limits.batch_inputs_max),
            ..limits
        };
        Self {
            engine,
            number: life,
            encoder,
            batcher: EncodeBatcher::new(limits),
            suspects: VecDeque::new(),
            orders: Orders::default(),
            batch: Vec::new(),
            dropped: Vec::new(),
            inputs: Vec::new(),
            encoded: Vec::new(),
        }
    }

    fn run(&mut self, beat: &Beat) -> Stop {
        let frame = &self.engine.frame;
        if let Err(stop) = self.replay() {
            return stop;
        }
        frame.serve(|| self.engine.inbox.is_draining());
        loop {
            match self.step(beat) {
                Ok(true) => {}
                Ok(false) => {
                    beat.rest();
                    self.engine.inbox.park(None);
                }
                Err(stop) => return stop,
            }
        }
    }

    /// One turn of the loop. Returns whether there was a batch.
    fn step(&mut self, beat: &Beat) -> Result<bool, Stop> {
        let now = self.engine.frame.clock.now();
        beat.begin(now);
        self.carry_out_orders(now)?;
        self.plan(now)?;
        if self.batch.is_empty() {
            return if self.orders.draining && self.waiting() == 0 {
                Err(Stop::Drained)
            } else {
                Ok(false)
            };
        }
        self.encoded.clear();
        self.encoder
            .encode(&self.inputs, &mut self.encoded)
            .map_err(Stop::Failed)?;
        beat.done(self.engine.frame.clock.now());
        self.answer(now)?;
        Ok(true)
    }

    /// Submits again what an earlier life left behind.
    fn replay(&mut self) -> Result<(), Stop> {
        let engine = self.engine;
        let now = engine.frame.clock.now();
        let mut jobs = engine.jobs(self.number)?;
        jobs.taken = true;
        for id in jobs.ids() {
            let Some(job) = jobs.of.get(&id) else {
                continue;
            };
            if job.failures > 0 {
                self.suspects.push_back(id);
                continue;
            }
            let tokens = job.input.tokens.len() as u32;
            let error = match self.batcher.submit(id, tokens, job.deadline, now) {
                Ok(()) => continue,
                Err(Reject::Expired) => EncodeError::Deadline,
                Err(_) => EncodeError::Failed,
            };
            engine.answer(&mut jobs, id, Err(error), now);
        }
        Ok(())
    }

    fn carry_out_orders(&mut self, now: Micros) -> Result<(), Stop> {
        let engine = self.engine;
        let mut jobs = engine.jobs(self.number)?;
        let mut orders = std::mem::take(&mut self.orders);
        engine.inbox.take(&mut orders);
        for (id, Submission(job)) in orders.submissions.drain(..) {
            self.submit(&mut jobs, (id, job), now);
        }
        for id in orders.aborts.drain(..) {
            if self.abort(id) {
                let abort = Err(EncodeError::Refused(Refusal::Unavailable));
                engine.answer(&mut jobs, id, abort, now);
            }
        }
        if orders.abort_all {
            for id in jobs.ids() {
                self.abort(id);
                let abort = Err(EncodeError::Refused(Refusal::Draining));
                engine.answer(&mut jobs, id, abort, now);
            }
        }
        self.orders = orders;
        Ok(())
    }

    /// Takes an input out of those that wait. Returns whether it did.
    fn abort(&mut self, id: RequestId) -> bool {
        let suspect = self.suspects.iter().position(|&suspect| suspect == id);
        let suspect = suspect.and_then(|at| self.suspects.remove(at));
        suspect.is_some() || self.batcher.abort(id)
    }

    /// Inputs that wait here.
    fn waiting(&self) -> u32 {
        self.batcher.waiting() + self.suspects.len() as u32
    }

    fn submit(&mut self, jobs: &mut Jobs, (id, job): (RequestId, Job), now: Micros) {
        let waiting = self.waiting();
        let result = if waiting >= self.engine.limits.waiting_max {
            Err(Reject::QueueFull { waiting })
        } else {
            let tokens = job.input.tokens.len() as u32;
            self.batcher.submit(id, tokens, job.deadline, now)
        };
        let Err(reject) = result else {
            jobs.of.insert(id, job);
            return;
        };
        let refusal = Refusal::Reject(reject);
        self.engine.frame.metrics.refused(&refusal);
        let error = match reject {
            Reject::Expired => EncodeError::Deadline,
            _ => refusal.into(),
        };
        // The caller may be gone.
        drop(job.answer.send(Err(error)));
    }

    /// Takes the next batch's inputs, and answers those whose deadline has passed.
    fn plan(&mut self, now: Micros) -> Result<(), Stop> {
        let engine = self.engine;
        self.batch.clear();
        self.inputs.clear();
        let mut jobs = engine.jobs(self.number)?;
        if self.suspects.is_empty() {
            self.batcher.plan(now, &mut self.batch, &mut self.dropped);
        }
        while self.batch.is_empty()
            && let Some(id) = self.suspects.pop_front()
        {
            let job = jobs.of.get(&id);
            if job.is_some_and(|job| job.deadline.is_some_and(|deadline| deadline <= now)) {
                self.dropped.push(Dropped::Deadline(id));
            } else {
                self.batch.push(id);
            }
        }
        for Dropped::Deadline(id) in self.dropped.drain(..) {
            engine.answer(&mut jobs, id, Err(EncodeError::Deadline), now);
        }
        for id in &self.batch {
            if let Some(job) = jobs.of.get_mut(id) {
                job.batched = true;
                engine.metrics.queue.record(seconds(job.arrived, now));
                self.inputs.push(job.input.clone());
            }
        }
        assert_eq!(
            self.batch.len(),
            self.inputs.len(),
            "an input was batched that nobody submitted"
        );
        engine.record_waiting(self.waiting());
        Ok(())
    }

    /// Hands out the results; one that is not finite fails its own input alone.
    fn answer(&mut self, begun: Micros) -> Result<(), Stop> {
        let engine = self.engine;
        self.check().map_err(Stop::Failed)?;
        let now = engine.frame.clock.now();
        let tokens = self.inputs.iter().map(|input| input.tokens.len()).sum();
        engine
            .metrics
            .batch(seconds(begun, now), self.batch.len(), tokens);
        let mut jobs = engine.jobs(self.number)?;
        for (&id, encoded) in self.batch.iter().zip(self.encoded.drain(..)) {
            let arrived = jobs.of.get(&id).map_or(begun, |job| job.arrived);
            let answer = if encoded.values.iter().all(|value| value.is_finite()) {
                let times = EncodeTimes {
                    queued: between(arrived, begun),
                    computed: between(begun, now),
                };
                Ok((encoded, times))
            } else {
                engine.frame.metrics.not_finite();
                Err(EncodeError::Failed)
            };
            engine.answer(&mut jobs, id, answer, now);
        }
        Ok(())
    }

    /// That every input has a result, of the shape that was wanted.
    fn check(&self) -> Result<(), ExecutorError> {
        let (results, expected) = (self.encoded.len(), self.inputs.len());
        if results != expected {
            let text = format!("{results} results, expected {expected}");
            return Err(ExecutorError::Failed(text));
        }
        let mut both = self.inputs.iter().zip(&self.encoded);
        match both.find(|(input, encoded)| !encoded.fits(input)) {
            None => Ok(()),
            Some((input, encoded)) => Err(ExecutorError::Failed(format!(
                "{} values in rows of {} for {:?} of {} tokens",
                encoded.values.len(),
                encoded.width,
                input.output,
                input.tokens.len()
            ))),
        }
    }
}

/// Failed batches after which an input that was in each of them is not tried again. It was alone in
/// the second.
const FAILURES_MAX: u32 = 2;

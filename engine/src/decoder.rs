//! A decoder's engine: what its handles and the lives of its loop share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

use scheduler::limits::Limits;
use scheduler::plan::Stats;
use scheduler::request::{Finish, Micros, RequestId};
use tokio::sync::oneshot;

use crate::beat::Beat;
use crate::clock::{after, seconds};
use crate::config::EngineConfig;
use crate::executor::{Executor, ExecutorError};
use crate::frame::{Frame, Work};
use crate::handle::{End, Factory, Generate, Refusal};
use crate::hash::Roots;
use crate::inbox::{Inbox, lock};
use crate::kv_log::KvLog;
use crate::ledger::{Ledger, Stream};
use crate::mailbox::Mailbox;
use crate::record::{DecoderMetrics, Ended};
use crate::run::{Life, Stop};

/// A generation on its way to the loop.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) id: RequestId,
    pub(crate) stream: Box<Stream>,
    pub(crate) verdict: oneshot::Sender<Result<(), Refusal>>,
}

/// A decoder's engine: what its handles and its lives share.
pub(crate) struct Decoder {
    pub(crate) frame: Frame,
    pub(crate) inbox: Inbox<Submission>,
    pub(crate) config: EngineConfig,
    pub(crate) kv_log: Arc<KvLog>,
    roots: Roots,
    ids: AtomicU64,
    pub(crate) metrics: DecoderMetrics,
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
            frame: Frame::new(config.name.clone(), clock, config.timeouts, config.restarts),
            inbox: Inbox::new(in_flight_max(&config.limits)),
            kv_log: Arc::default(),
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
            weight: request.weight,
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

    /// Once a step, for [`Decoder::stats`] and the metrics; `before` is what the scheduler said last.
    pub(crate) fn record_stats(&self, before: &Stats, stats: Stats) {
        self.metrics.stats(before, &stats);
        *lock(&self.stats) = stats;
    }

    /// There is no executor: its memory is gone, and whoever is left waits.
    fn nothing_runs(&self, ledger: &Ledger) {
        let stats = Stats {
            waiting: ledger.streams.len() as u32,
            ..Stats::default()
        };
        self.record_stats(&Stats::default(), stats);
    }

    /// The ledger, if it is still in the care of `life`.
    pub(crate) fn ledger(&self, life: u64) -> Result<MutexGuard<'_, Ledger>, Stop> {
        let ledger = lock(&self.ledger);
        if ledger.life == life {
            Ok(ledger)
        } else {
            Err(Stop::Superseded)
        }
    }

    /// Tells the reader of the start, unless an earlier life has.
    pub(crate) fn started(
        &self,
        stream: &mut Stream,
        cached_tokens: u32,
        now: Micros,
    ) -> Option<Waker> {
        if stream.started {
            return None;
        }
        stream.started = true;
        let queue_seconds = seconds(stream.arrived, now);
        self.metrics.started(queue_seconds, stream.prompt.len());
        stream.mailbox.start(cached_tokens, now)
    }

    /// Takes a stream out and tells its reader why. Returns whom to wake.
    pub(crate) fn end(
        &self,
        ledger: &mut Ledger,
        id: RequestId,
        end: End,
        now: Micros,
    ) -> Option<Waker> {
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

    fn live(&self, life: u64, beat: &Arc<Beat>) -> Result<(), ExecutorError> {
        let mut executor = (lock(&self.factory))()?;
        executor.report_to(self.frame.progress(beat));
        match Life::new(self, life, executor).run(beat) {
            Stop::Drained | Stop::Superseded => Ok(()),
            Stop::Failed(error) => Err(error),
        }
    }

    fn supersede(&self, next: u64) {
        let now = self.frame.clock.now();
        let mut ledger = lock(&self.ledger);
        ledger.life = next;
        ledger.taken = false;
        let mut planned = std::mem::take(&mut ledger.planned);
        // Whoever is in two steps in flight fails once.
        planned.sort_unstable();
        planned.dedup();
        for id in planned {
            if let Some(stream) = ledger.streams.get_mut(&id) {
                stream.failures += 1;
            }
        }
        for id in ledger.ids() {
            let Some(stream) = ledger.streams.get_mut(&id) else {
                continue;
            };
            stream.pending = None;
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
        self.nothing_runs(&ledger);
    }

    fn tend(&self, now: Micros) -> Option<Micros> {
        let mut ledger = lock(&self.ledger);
        if ledger.taken {
            return None;
        }
        let everything = self.inbox.take_abort_all();
        let mut next = None;
        for id in ledger.ids() {
            let deadline = ledger.streams.get(&id).and_then(|stream| stream.deadline);
            let expired = deadline.is_some_and(|deadline| deadline <= now);
            if everything || expired {
                let finish = if everything {
                    Finish::Abort
                } else {
                    Finish::Deadline
                };
                let waker = self.end(&mut ledger, id, End::Finish(finish), now);
                waker.into_iter().for_each(Waker::wake);
            } else {
                next = next.into_iter().chain(deadline).min();
            }
        }
        next
    }

    fn is_idle(&self) -> bool {
        lock(&self.ledger).streams.is_empty() && self.inbox.submissions() == 0
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
        self.nothing_runs(&ledger);
    }

    fn wake(&self) {
        self.inbox.wake();
    }
}

/// Requests that may be in flight, waiting or running. A burst into an idle engine may fill its
/// slots and its queue at once.
pub(crate) fn in_flight_max(limits: &Limits) -> u32 {
    limits.waiting_max.saturating_add(limits.running_max)
}

/// Failures running, without a token in between, after which a request that was being computed each
/// time is not replayed again. The second time it was alone with requests that had got on since.
const FAILURES_MAX: u32 = 2;

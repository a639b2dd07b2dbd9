//! The frame around a loop: its thread, its watchdog, its restarts, its health.
//!
//! A supervisor thread sleeps beside each loop. It starts *lives* of the loop, one at a time, each
//! on a thread and with an executor of its own. A life ends by itself (drained), fails (an error or
//! a panic), or hangs (a step that makes no progress for the time-out) and is then abandoned:
//! everything worth keeping lies outside of it, and it finds itself superseded should it ever wake.
//! An executor that is not even made in time is given up, and the engine with it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use scheduler::request::Micros;
use tokio::sync::{oneshot, watch};

use crate::beat::{Beat, Pulse};
use crate::clock::{Clock, after};
use crate::config::{Restarts, Timeouts};
use crate::executor::{ExecutorError, Progress};
use crate::handle::{Completion, EngineDown, Health, Refusal};
use crate::inbox::{lock, wait};
use crate::record::{Cause, FrameMetrics};

/// What a frame runs.
pub(crate) trait Work: Send + Sync + 'static {
    /// The frame it runs in.
    fn frame(&self) -> &Frame;
    /// Runs one life on the calling thread: makes an executor, takes over what the last life left,
    /// calls [`Frame::serve`], and returns `Ok` when it is drained or superseded.
    fn live(&self, life: u64, beat: &Arc<Beat>) -> Result<(), ExecutorError>;
    /// Takes the work away from the life that failed, for `next` to take over.
    fn supersede(&self, next: u64);
    /// Does what needs no executor, while there is none: ends what was aborted or has expired.
    /// Returns the next deadline.
    fn tend(&self, now: Micros) -> Option<Micros>;
    /// Whether nothing is left to do.
    fn is_idle(&self) -> bool;
    /// Ends everything; there will be no further life.
    fn close(&self);
    /// Makes a parked loop look at the clock again.
    fn wake(&self);
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) name: String,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) health: watch::Sender<Health>,
    pub(crate) metrics: FrameMetrics,
    timeouts: Timeouts,
    restarts: Restarts,
    watched: Mutex<Watched>,
    signal: Condvar,
}

#[derive(Debug, Default)]
struct Watched {
    /// The life that is watched; none while an executor is replaced.
    life: Option<u64>,
    ended: Option<Result<(), ExecutorError>>,
    /// Whether any life ever got as far as to serve.
    served: bool,
    /// Lives that hung and have not come back.
    abandoned: usize,
    /// Somebody wants the supervisor to look again.
    stirred: bool,
}

/// How a life failed.
struct Failure {
    cause: Cause,
    reason: String,
    /// Whether another life could go better.
    outlook: Outlook,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outlook {
    Open,
    Hopeless,
}

/// What became of a life.
enum Fate {
    Ended(Result<(), ExecutorError>),
    Hung,
    /// Its executor was not made in time.
    NeverStarted,
}

/// How the pause before a restart ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    Over,
    /// A drain came, and nothing is left to restart for.
    Drained,
}

impl Frame {
    pub(crate) fn new(
        name: String,
        clock: Arc<dyn Clock>,
        timeouts: Timeouts,
        restarts: Restarts,
    ) -> Self {
        Self {
            metrics: FrameMetrics::new(&name),
            name,
            clock,
            health: watch::Sender::new(Health::Starting),
            timeouts,
            restarts,
            watched: Mutex::default(),
            signal: Condvar::new(),
        }
    }

    /// Refuses new work in every state but `Serving`.
    pub(crate) fn admit(&self) -> Result<(), Refusal> {
        match *self.health.borrow() {
            Health::Serving => Ok(()),
            Health::Draining => Err(Refusal::Draining),
            Health::Starting | Health::Restarting | Health::Down => Err(Refusal::Unavailable),
        }
    }

    /// What an executor of a life with this beat says that it gets on with.
    pub(crate) fn progress(&self, beat: &Arc<Beat>) -> Progress {
        let (beat, clock) = (Arc::clone(beat), Arc::clone(&self.clock));
        Progress::new(move || beat.get_on(clock.now()))
    }

    /// A life is ready for work. `is_draining` is asked under the lock of the health, so that a
    /// drain at the same time is not painted over.
    pub(crate) fn serve(&self, is_draining: impl Fn() -> bool) {
        lock(&self.watched).served = true;
        self.health.send_modify(|health| {
            *health = if is_draining() {
                Health::Draining
            } else {
                Health::Serving
            };
        });
    }

    /// A drain began.
    pub(crate) fn drain(&self) {
        self.health.send_if_modified(|health| {
            let changes = !matches!(*health, Health::Down | Health::Draining);
            if changes {
                *health = Health::Draining;
            }
            changes
        });
        self.wake();
    }

    /// Makes the supervisor look again, at the clock and at the orders.
    pub(crate) fn wake(&self) {
        lock(&self.watched).stirred = true;
        self.signal.notify_all();
    }

    fn is_draining(&self) -> bool {
        *self.health.borrow() == Health::Draining
    }

    fn ended(&self, life: u64, result: Result<(), ExecutorError>) {
        let mut watched = lock(&self.watched);
        if watched.life == Some(life) {
            watched.ended = Some(result);
            self.signal.notify_all();
        } else {
            watched.abandoned -= 1;
        }
    }

    fn begin(&self, life: u64) {
        let mut watched = lock(&self.watched);
        watched.life = Some(life);
        watched.ended = None;
    }

    /// Lets go of a life that does not come back, unless it just has.
    fn abandon(&self, fate: Fate) -> Fate {
        let mut watched = lock(&self.watched);
        if let Some(result) = watched.ended.take() {
            return Fate::Ended(result);
        }
        watched.life = None;
        watched.abandoned += 1;
        fate
    }

    /// Sleeps until the life has ended, `until` is reached, or somebody stirs.
    fn doze(&self, until: Micros) -> Option<Result<(), ExecutorError>> {
        let mut watched = lock(&self.watched);
        if watched.ended.is_none() && !watched.stirred {
            watched = wait(&self.signal, watched, self.clock.sleep_max(until));
        }
        watched.stirred = false;
        watched.ended.take()
    }
}

/// Starts the supervisor of `work`, and through it the first life.
pub(crate) fn start<W: Work>(work: &Arc<W>) -> Completion {
    let (sender, receiver) = oneshot::channel();
    let weak = Arc::downgrade(work);
    work.frame().clock.on_jump(Box::new(move || {
        if let Some(work) = weak.upgrade() {
            work.wake();
            work.frame().wake();
        }
    }));
    let supervised = Arc::clone(work);
    let supervisor = move || {
        let result = catch_unwind(AssertUnwindSafe(|| supervise(&supervised)));
        let result = result.unwrap_or_else(|panic| {
            let reason = format!("its supervisor panicked: {}", panic_text(panic.as_ref()));
            Err(give_up(supervised.as_ref(), &reason))
        });
        // The engine may have no listener left.
        drop(sender.send(result));
    };
    let named = thread::Builder::new().name("supervisor".to_owned());
    if let Err(error) = named.spawn(supervisor) {
        give_up(
            work.as_ref(),
            &format!("no thread for its supervisor: {error}"),
        );
    }
    Completion::new(work.frame().name.clone(), receiver)
}

fn supervise<W: Work>(work: &Arc<W>) -> Result<(), EngineDown> {
    let frame = work.frame();
    let (mut life, mut failures) = (0, 0);
    loop {
        let beat = Arc::new(Beat::default());
        let Err(failure) = one_life(work, life, &beat) else {
            return Ok(());
        };
        frame.health.send_if_modified(|health| {
            let changes = *health != Health::Draining;
            if changes {
                *health = Health::Restarting;
            }
            changes
        });
        life += 1;
        work.supersede(life);
        if beat.good_stretch() >= frame.restarts.recovery {
            failures = 0;
        }
        failures += 1;
        if let Some(reason) = hopeless(frame, &failure, failures) {
            return Err(give_up(work.as_ref(), &reason));
        }
        let (engine, reason) = (&frame.name, &failure.reason);
        tracing::warn!(engine, reason, life, "the executor is replaced");
        frame.metrics.restarted(failure.cause);
        let until = after(frame.clock.now(), pause(frame.restarts, failures));
        if rest(work.as_ref(), until) == Pause::Drained {
            work.close();
            return Ok(());
        }
    }
}

/// Why there is to be no further life.
fn hopeless(frame: &Frame, failure: &Failure, failures: usize) -> Option<String> {
    let (served, abandoned) = {
        let watched = lock(&frame.watched);
        (watched.served, watched.abandoned)
    };
    let Restarts {
        failures_max,
        abandoned_max,
        ..
    } = frame.restarts;
    let reason = &failure.reason;
    // What could not even be made once will not be made by trying again.
    if !served || failure.outlook == Outlook::Hopeless || failures >= failures_max {
        Some(reason.clone())
    } else if abandoned > abandoned_max {
        Some(format!("{reason}; {abandoned} executors hang"))
    } else {
        None
    }
}

/// Runs a life to its end, or to the failure it ends with.
fn one_life<W: Work>(work: &Arc<W>, life: u64, beat: &Arc<Beat>) -> Result<(), Failure> {
    let frame = work.frame();
    frame.begin(life);
    let begun = frame.clock.now();
    let body = {
        let (work, beat) = (Arc::clone(work), Arc::clone(beat));
        move || {
            let result = catch_unwind(AssertUnwindSafe(|| work.live(life, &beat)));
            let result = result.unwrap_or_else(|panic| {
                let text = panic_text(panic.as_ref());
                Err(ExecutorError::Failed(format!("panicked: {text}")))
            });
            work.frame().ended(life, result);
        }
    };
    let failure = |cause, reason, outlook| Failure {
        cause,
        reason,
        outlook,
    };
    let thread = thread::Builder::new()
        .name(format!("engine {}", frame.name))
        .spawn(body)
        .map_err(|error| failure(Cause::Error, format!("no thread: {error}"), Outlook::Open))?;
    let Timeouts { step, start } = frame.timeouts;
    match watch(work.as_ref(), beat, begun) {
        Fate::Hung => {
            let reason = format!("a step made no progress for {step:?}");
            Err(failure(Cause::Hang, reason, Outlook::Open))
        }
        Fate::NeverStarted => {
            // It holds the factory, so nobody could make another one.
            let reason = format!("the executor was not made within {start:?}");
            Err(failure(Cause::Hang, reason, Outlook::Hopeless))
        }
        Fate::Ended(result) => {
            // Its panic was caught, so there is nothing to learn from joining but that it is gone.
            drop(thread.join());
            result.map_err(|error| {
                let cause = match error {
                    ExecutorError::OutOfMemory(_) => Cause::OutOfMemory,
                    ExecutorError::Failed(_) => Cause::Error,
                };
                failure(cause, error.to_string(), Outlook::Open)
            })
        }
    }
}

/// Sleeps until the life ends or hangs. Wakes at most once a time-out while it does neither.
fn watch<W: Work>(work: &W, beat: &Beat, begun: Micros) -> Fate {
    let frame = work.frame();
    let Timeouts { step, start } = frame.timeouts;
    loop {
        let now = frame.clock.now();
        // A step that begins after this look cannot hang before then.
        let mut until = after(now, step);
        match beat.pulse() {
            Pulse::Resting => {}
            Pulse::Working(since) => {
                until = after(since, step);
                if now >= until {
                    return frame.abandon(Fate::Hung);
                }
            }
            Pulse::Starting => {
                let limit = after(begun, start);
                if now >= limit {
                    return frame.abandon(Fate::NeverStarted);
                }
                let deadline = work.tend(now).unwrap_or(limit);
                until = until.min(limit).min(deadline);
            }
        }
        if let Some(result) = frame.doze(until) {
            return Fate::Ended(result);
        }
    }
}

/// Sleeps between two lives. A drain does not wait.
fn rest<W: Work>(work: &W, until: Micros) -> Pause {
    let frame = work.frame();
    loop {
        let now = frame.clock.now();
        let deadline = work.tend(now).unwrap_or(until);
        if frame.is_draining() {
            return if work.is_idle() {
                Pause::Drained
            } else {
                Pause::Over
            };
        }
        if now >= until {
            return Pause::Over;
        }
        drop(frame.doze(until.min(deadline)));
    }
}

fn give_up<W: Work>(work: &W, reason: &str) -> EngineDown {
    let frame = work.frame();
    frame.health.send_replace(Health::Down);
    work.close();
    tracing::error!(engine = frame.name, reason, "the engine stays down");
    EngineDown {
        name: frame.name.clone(),
        reason: reason.to_owned(),
    }
}

/// The first restart is immediate; each further pause is twice the last.
fn pause(restarts: Restarts, failures: usize) -> Duration {
    match failures.checked_sub(2) {
        None => Duration::ZERO,
        Some(doublings) => restarts
            .pause
            .saturating_mul(1 << doublings.min(DOUBLINGS_MAX)),
    }
}

const DOUBLINGS_MAX: usize = 6;

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let restarts = Restarts {
            pause: Duration::from_secs(1),
            ..Restarts::default()
        };
        let pauses = [1, 2, 3, 4, 100].map(|failures| pause(restarts, failures).as_secs());
        assert_eq!(pauses, [0, 1, 2, 4, 64]);
    }

    /// Work that fails, and whose hand-over panics.
    struct Broken {
        frame: Frame,
        closed: AtomicBool,
    }

    impl Work for Broken {
        fn frame(&self) -> &Frame {
            &self.frame
        }
        fn live(&self, _life: u64, _beat: &Arc<Beat>) -> Result<(), ExecutorError> {
            Err(ExecutorError::Failed("broken".to_owned()))
        }
        fn supersede(&self, _next: u64) {
            panic!("an invariant is broken")
        }
        fn tend(&self, _now: Micros) -> Option<Micros> {
            None
        }
        fn is_idle(&self) -> bool {
            true
        }
        fn close(&self) {
            self.closed.store(true, Ordering::Release);
        }
        fn wake(&self) {}
    }

    #[tokio::test]
    async fn a_supervisor_that_panics_closes_the_engine() {
        let clock = Arc::new(SystemClock::default());
        let (timeouts, restarts) = (Timeouts::default(), Restarts::default());
        let work = Arc::new(Broken {
            frame: Frame::new("broken".to_owned(), clock, timeouts, restarts),
            closed: AtomicBool::new(false),
        });
        let down = start(&work).wait().await.unwrap_err();
        assert_eq!(
            down.reason,
            "its supervisor panicked: an invariant is broken"
        );
        assert!(work.closed.load(Ordering::Acquire));
        assert_eq!(*work.frame.health.borrow(), Health::Down);
    }
}

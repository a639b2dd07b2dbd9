//! The frame around a loop: its thread, its watchdog, its restarts, its health.
//!
//! A supervisor thread sleeps beside each loop. It starts *lives* of the loop, one at a time, each
//! on a thread and with an executor of its own. A life ends by itself (drained), fails (an error or
//! a panic), or hangs (a step longer than the time-out) and is then abandoned: everything worth
//! keeping lies outside of it, and it finds itself superseded should it ever wake.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use scheduler::request::Micros;
use tokio::sync::{oneshot, watch};

use crate::clock::{Clock, after};
use crate::config::Restarts;
use crate::executor::ExecutorError;
use crate::handle::{Completion, EngineDown, Health, Refusal};
use crate::inbox::{lock, wait};
use crate::record::{Cause, FrameMetrics};

/// What a frame runs.
pub(crate) trait Work: Send + Sync + 'static {
    /// The frame it runs in.
    fn frame(&self) -> &Frame;
    /// Runs one life on the calling thread: makes an executor, takes over what the last life left,
    /// calls [`Frame::serve`], and returns `Ok` when it is drained or superseded.
    fn live(&self, life: u64, beat: &Beat) -> Result<(), ExecutorError>;
    /// Takes the work away from the life that failed, for `next` to take over.
    fn supersede(&self, next: u64);
    /// Ends everything; there will be no further life.
    fn close(&self);
    /// Makes a parked loop look at the clock again.
    fn wake(&self);
}

/// When a life's current step began; how the watchdog sees it.
#[derive(Debug, Default)]
pub(crate) struct Beat(AtomicU64);

impl Beat {
    /// A step begins.
    pub(crate) fn begin(&self, now: Micros) {
        self.0.store(now.0 + 1, Ordering::Release);
    }

    /// The loop is about to sleep.
    pub(crate) fn rest(&self) {
        self.0.store(0, Ordering::Release);
    }

    fn since(&self) -> Option<Micros> {
        self.0.load(Ordering::Acquire).checked_sub(1).map(Micros)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) name: String,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) health: watch::Sender<Health>,
    pub(crate) metrics: FrameMetrics,
    step_timeout: Duration,
    restarts: Restarts,
    watched: Mutex<Watched>,
    signal: Condvar,
}

#[derive(Debug, Default)]
struct Watched {
    life: u64,
    ended: Option<Result<(), ExecutorError>>,
    /// Whether any life ever got as far as to serve.
    served: bool,
}

/// What became of a life.
enum Fate {
    Ended(Result<(), ExecutorError>),
    Hung,
}

impl Frame {
    pub(crate) fn new(
        name: String,
        clock: Arc<dyn Clock>,
        step_timeout: Duration,
        restarts: Restarts,
    ) -> Self {
        Self {
            metrics: FrameMetrics::new(&name),
            name,
            clock,
            health: watch::Sender::new(Health::Starting),
            step_timeout,
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
            Health::Starting | Health::Down => Err(Refusal::Unavailable),
        }
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
    }

    fn wake(&self) {
        // Under the lock, so that a supervisor between its look at the clock and its sleep hears it.
        let _watched = lock(&self.watched);
        self.signal.notify_all();
    }

    fn ended(&self, life: u64, result: Result<(), ExecutorError>) {
        let mut watched = lock(&self.watched);
        if watched.life == life {
            watched.ended = Some(result);
            self.signal.notify_all();
        }
    }

    fn begin(&self, life: u64) {
        let mut watched = lock(&self.watched);
        watched.life = life;
        watched.ended = None;
    }

    /// Sleeps until the life ends or hangs. Wakes at most once a time-out while it does neither.
    fn watch(&self, beat: &Beat) -> Fate {
        let mut watched = lock(&self.watched);
        loop {
            if let Some(result) = watched.ended.take() {
                return Fate::Ended(result);
            }
            let now = self.clock.now();
            let begun = beat.since();
            // A step that begins after this look cannot hang before `now` plus the time-out.
            let limit = after(begun.unwrap_or(now), self.step_timeout);
            if begun.is_some() && now >= limit {
                return Fate::Hung;
            }
            watched = wait(&self.signal, watched, self.clock.sleep_max(limit));
        }
    }

    fn sleep_until(&self, until: Micros) {
        let mut watched = lock(&self.watched);
        while self.clock.now() < until {
            watched = wait(&self.signal, watched, self.clock.sleep_max(until));
        }
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
        let result = supervise(&supervised);
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
    let mut failures = VecDeque::new();
    let mut life = 0;
    loop {
        let Err((cause, reason)) = one_life(work, life) else {
            return Ok(());
        };
        let served = lock(&frame.watched).served;
        frame.health.send_replace(Health::Down);
        life += 1;
        work.supersede(life);
        let now = frame.clock.now();
        failures.push_back(now);
        while failures
            .front()
            .is_some_and(|&first| after(first, frame.restarts.window) <= now)
        {
            failures.pop_front();
        }
        // What could not even be made once will not be made by trying again.
        if !served || failures.len() >= frame.restarts.failures_max {
            return Err(give_up(work.as_ref(), &reason));
        }
        tracing::warn!(
            engine = frame.name,
            reason,
            life,
            "the executor is replaced"
        );
        frame.metrics.restarted(cause);
        frame.sleep_until(after(now, pause(frame.restarts, failures.len())));
    }
}

/// Runs a life to its end, or to the failure it ends with.
fn one_life<W: Work>(work: &Arc<W>, life: u64) -> Result<(), (Cause, String)> {
    let frame = work.frame();
    frame.begin(life);
    let beat = Arc::new(Beat::default());
    let body = {
        let (work, beat) = (Arc::clone(work), Arc::clone(&beat));
        move || {
            let result = catch_unwind(AssertUnwindSafe(|| work.live(life, &beat)));
            let result = result.unwrap_or_else(|panic| {
                let text = panic_text(panic.as_ref());
                Err(ExecutorError::Failed(format!("panicked: {text}")))
            });
            work.frame().ended(life, result);
        }
    };
    let thread = thread::Builder::new()
        .name(format!("engine {}", frame.name))
        .spawn(body)
        .map_err(|error| (Cause::Error, format!("no thread: {error}")))?;
    match frame.watch(&beat) {
        Fate::Hung => {
            let limit = frame.step_timeout;
            Err((Cause::Hang, format!("a step took longer than {limit:?}")))
        }
        Fate::Ended(result) => {
            // Its panic was caught, so there is nothing to learn from joining but that it is gone.
            drop(thread.join());
            result.map_err(|error| match error {
                ExecutorError::OutOfMemory(_) => (Cause::OutOfMemory, error.to_string()),
                ExecutorError::Failed(_) => (Cause::Error, error.to_string()),
            })
        }
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

/// The first restart of a window is immediate; each further pause is twice the last.
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
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let restarts = Restarts {
            pause: Duration::from_secs(1),
            ..Restarts::default()
        };
        let pauses = [1, 2, 3, 4, 100].map(|failures| pause(restarts, failures).as_secs());
        assert_eq!(pauses, [0, 1, 2, 4, 64]);
    }
}

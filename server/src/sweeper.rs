//! Looks after answers that nobody reads. The transport asks an answer for its next slice only
//! once the slices before have left some room in the client's window, so an answer whose client
//! grants no window is not asked again, and can keep no deadline by itself. What the transport
//! takes beyond the window is at most one slice.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::app::App;
use crate::call::Answer;
use crate::clock::Stopwatch;

/// Between two looks; less where answers may stay unread for a short time only.
const INTERVAL_MAX: Duration = Duration::from_secs(1);
const INTERVAL_MIN: Duration = Duration::from_millis(5);

/// What holds for all answers at one look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// The longest time an answer may stay unread.
    pub(crate) stall_timeout: Duration,
    /// An answer unread for less than this may be on its way to a reader.
    pub(crate) linger: Duration,
    /// The drain is over its limit: answers that are not read end.
    pub(crate) aborts: bool,
    /// And that for a while: all answers end.
    pub(crate) aborts_all: bool,
    /// All work is done: what only watches ends too.
    pub(crate) leaves: bool,
}

/// What is looked after.
pub(crate) trait Watched: fmt::Debug + Send + Sync {
    /// Ends what breaks the rules; whether there is anything left to look after.
    fn sweep(&self, rules: &Rules) -> bool;
}

/// All answers and pages that are on their way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sweeper(Arc<Mutex<Vec<Weak<dyn Watched>>>>);

impl Sweeper {
    /// Looks after an answer from now on.
    pub(crate) fn add<W: Watched + 'static>(&self, answer: &Arc<W>) {
        let answer: Weak<W> = Arc::downgrade(answer);
        self.answers().push(answer);
    }

    /// Looks again and again. Run as a task of its own.
    pub(crate) async fn run(&self, app: &App) {
        let stall_timeout = app.limits.stream_stall_timeout;
        let interval = (stall_timeout / 4).clamp(INTERVAL_MIN, INTERVAL_MAX);
        let mut ticks = tokio::time::interval(interval);
        let lifecycle = &app.lifecycle;
        let (mut aborted, mut leaves): (Option<Stopwatch>, bool) = (None, false);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = lifecycle.abort.cancelled(), if aborted.is_none() => {
                    aborted = Some(Stopwatch::start());
                }
                () = lifecycle.leaving.cancelled(), if !leaves => leaves = true,
            }
            self.sweep(&Rules {
                stall_timeout,
                linger: interval,
                aborts: aborted.is_some(),
                aborts_all: aborted.is_some_and(|since| since.elapsed() >= interval / 2),
                leaves,
            });
        }
    }

    fn sweep(&self, rules: &Rules) {
        let mut answers = std::mem::take(&mut *self.answers());
        answers.retain(|answer| {
            let answer = answer.upgrade();
            answer.is_some_and(|answer| answer.sweep(rules))
        });
        self.answers().append(&mut answers);
    }

    fn answers(&self) -> std::sync::MutexGuard<'_, Vec<Weak<dyn Watched>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").finish_non_exhaustive()
    }
}

//! Threads that several [`Compute`](crate::Compute)s share.
//!
//! One call at a time has them all. Calls have their turns in the order in which they came, so that
//! of two models at work neither waits for more than one call of the other, and no processor has
//! two of our threads to choose from.

use crate::pool::{Pool, SPINS, relax};
use std::fmt;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// A handle to a number of threads; clones stand for the same ones, which end with the last.
#[derive(Clone)]
pub struct Threads(Arc<Shared>);

struct Shared {
    count: usize,
    pool: Mutex<Pool>,
    turns: Turns,
}

/// A lock that is given in the order in which it was asked for.
#[derive(Default)]
struct Turns {
    /// The turn of the next to come.
    next: AtomicU64,
    /// Whose turn it is.
    now: AtomicU64,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    change: Condvar,
}

/// Gives the turn on when dropped, after a panic too.
struct Turn<'a>(&'a Turns);

impl Threads {
    /// Starts `count - 1` workers; whoever calls an op is the remaining thread.
    pub fn new(count: usize) -> Self {
        assert!(count >= 1, "an op needs at least one thread");
        Self(Arc::new(Shared {
            count,
            pool: Mutex::new(Pool::new(count)),
            turns: Turns::default(),
        }))
    }

    /// Threads that take part in an op, the caller included.
    pub fn count(&self) -> usize {
        self.0.count
    }

    /// Runs every task once and returns when all are done; passes a panic on. A task must not run
    /// others on the same threads.
    pub(crate) fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if tasks < 2 || self.0.count == 1 {
            return (0..tasks).for_each(task);
        }
        let _turn = self.0.turns.take();
        let mut pool = self.0.pool.lock().unwrap_or_else(PoisonError::into_inner);
        pool.run(tasks, task);
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Threads[{}]", self.0.count)
    }
}

// === impl Turns ===

impl Turns {
    fn take(&self) -> Turn<'_> {
        let mine = self.next.fetch_add(1, SeqCst);
        for spins in 0..SPINS {
            if self.now.load(SeqCst) == mine {
                return Turn(self);
            }
            relax(spins);
        }
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        // Counted before the look at the turn: who ends one later sees us and wakes us.
        self.sleepers.fetch_add(1, SeqCst);
        while self.now.load(SeqCst) != mine {
            guard = self
                .change
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, SeqCst);
        drop(guard);
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_add(1, SeqCst);
        if self.0.sleepers.load(SeqCst) > 0 {
            drop(self.0.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.0.change.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;

    /// However many models call, no more tasks are at work than there are threads.
    #[test]
    fn callers_take_turns() {
        let threads = Threads::new(2);
        let (working, most, done) = (
            AtomicUsize::new(0),
            AtomicUsize::new(0),
            AtomicUsize::new(0),
        );
        let task = |index: usize| {
            most.fetch_max(working.fetch_add(1, SeqCst) + 1, SeqCst);
            std::hint::black_box((0..50 * index).sum::<usize>());
            working.fetch_sub(1, SeqCst);
            done.fetch_add(1, SeqCst);
        };
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..2_000).for_each(|round| threads.run(2 + round % 5, &task)));
            }
        });
        assert_eq!(done.into_inner(), 4 * 400 * (2 + 3 + 4 + 5 + 6));
        assert!(most.into_inner() <= 2);
    }

    #[test]
    fn a_panic_gives_the_turn_on() {
        let threads = Threads::new(2);
        for _ in 0..3 {
            let run = || threads.run(4, &|index| assert!(index != 2, "task {index}"));
            assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
        }
        let sum = AtomicUsize::new(0);
        threads.run(5, &|index| {
            sum.fetch_add(index, SeqCst);
        });
        assert_eq!(sum.into_inner(), 10);
    }
}

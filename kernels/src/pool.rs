//! Threads that share out numbered tasks.
//!
//! The caller takes part and tasks are claimed one by one, so a worker that the system does not
//! run holds up at most the task it holds; a worker that has not woken yet is not waited for.
//! Between calls a worker spins for some microseconds and then sleeps. Nothing is allocated per
//! call.
#![expect(unsafe_code, reason = "a borrowed task crosses threads")]

use std::any::Any;
use std::cell::UnsafeCell;
use std::fmt;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// A fixed number of threads, the caller included.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

type Task = *const (dyn Fn(usize) + Sync);

/// State word: `round << 32 | OPEN | QUIT | workers inside`.
struct Shared {
    state: Padded<AtomicU64>,
    /// The next task to claim.
    next: Padded<AtomicUsize>,
    job: UnsafeCell<Option<Job>>,
    sleepers: AtomicUsize,
    caller_sleeps: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
    done: Condvar,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

#[derive(Clone, Copy)]
struct Job {
    task: Task,
    tasks: usize,
}

/// Alone in its cache lines, so that claiming a task does not slow down who reads the state.
#[repr(align(128))]
struct Padded<T>(T);

// SAFETY: `job` is written only by the one caller (`Pool::run` takes `&mut self`) while no worker
// is inside a round, and read only by workers that entered the round after it was opened; the
// task behind the pointer is `Sync`. Everything else is atomic or locked.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is used only during the call that set it.
unsafe impl Send for Shared {}

impl Pool {
    pub(crate) fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            state: Padded(AtomicU64::new(0)),
            next: Padded(AtomicUsize::new(0)),
            job: UnsafeCell::new(None),
            sleepers: AtomicUsize::new(0),
            caller_sleeps: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
            done: Condvar::new(),
            panic: Mutex::new(None),
        });
        let workers = (1..threads)
            .map(|number| spawn(number, Arc::clone(&shared)))
            .collect();
        Self { shared, workers }
    }

    /// Runs every task once and returns when all are done; passes a panic on.
    pub(crate) fn run(&mut self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if tasks < 2 || self.workers.is_empty() {
            return (0..tasks).for_each(task);
        }
        let shared = &*self.shared;
        shared.open(Job {
            task: erase(task),
            tasks,
        });
        shared.wake_workers(tasks - 1);
        shared.work(Job {
            task: erase(task),
            tasks,
        });
        shared.close();
        let panic = lock(&shared.panic).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state.0.fetch_or(QUIT, SeqCst);
        drop(lock(&self.shared.lock));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks; it has none of its own to report.
            let _ = worker.join();
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool[{}]", self.workers.len() + 1)
    }
}

// === impl Shared ===

impl Shared {
    fn open(&self, job: Job) {
        // SAFETY: the last round was closed and everybody has left it, so nobody reads `job`.
        unsafe { *self.job.get() = Some(job) };
        self.next.0.store(0, Relaxed);
        let round = (self.state.0.load(Relaxed) >> 32).wrapping_add(1);
        self.state.0.store(round << 32 | OPEN, SeqCst);
    }

    fn wake_workers(&self, at_most: usize) {
        let sleepers = self.sleepers.load(SeqCst).min(at_most);
        if sleepers == 0 {
            return;
        }
        drop(lock(&self.lock));
        for _ in 0..sleepers {
            self.wake.notify_one();
        }
    }

    /// Claims and runs tasks until none is left.
    fn work(&self, job: Job) {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let index = self.next.0.fetch_add(1, Relaxed);
                if index >= job.tasks {
                    return;
                }
                // SAFETY: `Pool::run`, which borrows the task, does not return before every
                // thread has left the round.
                unsafe { (*job.task)(index) };
            }
        }));
        if let Err(panic) = outcome {
            // The tasks not yet claimed are skipped.
            self.next.0.store(usize::MAX / 2, Relaxed);
            lock(&self.panic).get_or_insert(panic);
        }
    }

    /// Lets nobody in any more and waits for those inside.
    fn close(&self) {
        let mut state = self.state.0.fetch_and(!OPEN, AcqRel) & !OPEN;
        for spins in 0..SPINS {
            if state & INSIDE == 0 {
                return;
            }
            relax(spins);
            state = self.state.0.load(Acquire);
        }
        let mut guard = lock(&self.lock);
        self.caller_sleeps.store(1, SeqCst);
        while self.state.0.load(SeqCst) & INSIDE != 0 {
            guard = self
                .done
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_sleeps.store(0, SeqCst);
    }

    /// Waits for a round newer than `last` and enters it; `None` when the pool ends.
    fn enter(&self, last: u64) -> Option<u64> {
        let mut spins = 0;
        loop {
            let state = self.state.0.load(Acquire);
            if state & QUIT != 0 {
                return None;
            }
            if state & OPEN != 0 && state >> 32 != last {
                if self
                    .state
                    .0
                    .compare_exchange_weak(state, state + 1, AcqRel, Relaxed)
                    .is_ok()
                {
                    return Some(state >> 32);
                }
            } else if spins < SPINS {
                spins += 1;
                relax(spins);
            } else {
                self.sleep(last);
                spins = 0;
            }
        }
    }

    fn sleep(&self, last: u64) {
        let mut guard = lock(&self.lock);
        self.sleepers.fetch_add(1, SeqCst);
        let state = self.state.0.load(SeqCst);
        if state & QUIT == 0 && (state & OPEN == 0 || state >> 32 == last) {
            // Whoever wakes too late for a round spins again: the next one is near.
            guard = self
                .wake
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, SeqCst);
        drop(guard);
    }

    fn leave(&self) {
        let before = self.state.0.fetch_sub(1, SeqCst);
        if before & INSIDE == 1 && before & OPEN == 0 && self.caller_sleeps.load(SeqCst) != 0 {
            drop(lock(&self.lock));
            self.done.notify_one();
        }
    }
}

#[expect(
    clippy::expect_used,
    reason = "without its threads the process cannot do its work"
)]
fn spawn(number: usize, shared: Arc<Shared>) -> JoinHandle<()> {
    let name = format!("compute-{number}");
    let body = move || {
        let mut last = 0;
        while let Some(round) = shared.enter(last) {
            last = round;
            // SAFETY: this thread is inside the round, so the caller does not write `job`.
            if let Some(job) = unsafe { *shared.job.get() } {
                shared.work(job);
            }
            shared.leave();
        }
    };
    thread::Builder::new()
        .name(name)
        .spawn(body)
        .expect("a thread of the pool")
}

fn erase(task: &(dyn Fn(usize) + Sync)) -> Task {
    // SAFETY: only the lifetime is erased; `Pool::run` keeps the borrow until nobody uses it.
    unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Task>(task) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits a moment; now and then lets others run, who may be what is waited for when processors
/// are scarce.
pub(crate) fn relax(spins: usize) {
    if spins % 32 == 31 {
        thread::yield_now();
    } else {
        spin_loop();
    }
}

const OPEN: u64 = 1 << 31;
const QUIT: u64 = 1 << 30;
const INSIDE: u64 = QUIT - 1;

// A pause lasts 10 to 45 ns: about 50 us of spinning at most before a thread sleeps.
pub(crate) const SPINS: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in 1..=4 {
            let mut pool = Pool::new(threads);
            for tasks in [0, 1, 2, 7, 100] {
                let runs: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|index| {
                    runs[index].fetch_add(1, Relaxed);
                });
                assert!(
                    runs.iter().all(|runs| runs.load(Relaxed) == 1),
                    "{threads} {tasks}"
                );
            }
        }
    }

    #[test]
    fn many_rounds_in_a_row() {
        let mut pool = Pool::new(3);
        let sum = AtomicUsize::new(0);
        for round in 0..20_000 {
            pool.run(1 + round % 5, &|index| {
                sum.fetch_add(index + 1, Relaxed);
            });
        }
        assert_eq!(sum.into_inner(), 4_000 * (1 + 3 + 6 + 10 + 15));
    }

    #[test]
    fn a_panic_is_passed_on_and_the_pool_lives() {
        let mut pool = Pool::new(3);
        for round in 0..200 {
            let bad = round % 16;
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                pool.run(16, &|index| assert!(index != bad, "task {index}"));
            }));
            let message = outcome.unwrap_err();
            assert_eq!(
                message.downcast_ref::<String>(),
                Some(&format!("task {bad}"))
            );
            let sum = AtomicUsize::new(0);
            pool.run(8, &|index| {
                sum.fetch_add(index, Relaxed);
            });
            assert_eq!(sum.into_inner(), 28);
        }
    }
}

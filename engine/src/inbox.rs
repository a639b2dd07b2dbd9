//! What callers leave for a loop: submissions, aborts and the word to drain. Bounded everywhere.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use scheduler::request::{Reject, RequestId};
use tokio::sync::oneshot;

use crate::handle::Refusal;

/// Everything a loop took from its inbox at once. Reused from step to step.
#[derive(Debug)]
pub(crate) struct Orders<S> {
    /// New work, in order of arrival.
    pub(crate) submissions: Vec<S>,
    /// Work whose caller is gone. At most one entry a request, so bounded by what was submitted.
    pub(crate) aborts: Vec<RequestId>,
    /// Work that its caller has enough of. As many at most.
    pub(crate) stops: Vec<RequestId>,
    /// Who wants the prefix cache flushed, and to know how many blocks that freed.
    pub(crate) flushes: Vec<oneshot::Sender<u32>>,
    /// Whether everything is to end now.
    pub(crate) abort_all: bool,
    /// Whether the loop ends when it has nothing left to do.
    pub(crate) draining: bool,
}

impl<S> Default for Orders<S> {
    fn default() -> Self {
        Self {
            submissions: Vec::new(),
            aborts: Vec::new(),
            stops: Vec::new(),
            flushes: Vec::new(),
            abort_all: false,
            draining: false,
        }
    }
}

/// The queue between async callers and one loop. Its lock is held for a few instructions only.
#[derive(Debug)]
pub(crate) struct Inbox<S> {
    state: Mutex<State<S>>,
    signal: Condvar,
    submissions_max: u32,
}

#[derive(Debug)]
struct State<S> {
    orders: Orders<S>,
    /// Nothing is taken any more; nobody will look.
    closed: bool,
    /// The loop sleeps and must be signalled.
    parked: bool,
    /// The loop is to look again although there may be no order (a drain, a jump of the clock).
    woken: bool,
}

impl<S> Inbox<S> {
    /// An inbox that holds at most `submissions_max` submissions between two steps.
    pub(crate) fn new(submissions_max: u32) -> Self {
        Self {
            state: Mutex::new(State {
                orders: Orders::default(),
                closed: false,
                parked: false,
                woken: false,
            }),
            signal: Condvar::new(),
            submissions_max,
        }
    }

    /// Leaves a submission, or says why not.
    pub(crate) fn submit(&self, submission: S) -> Result<(), Refusal> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(Refusal::Unavailable);
        }
        if state.orders.draining {
            return Err(Refusal::Draining);
        }
        let waiting = state.orders.submissions.len() as u32;
        if waiting >= self.submissions_max {
            return Err(Refusal::Reject(Reject::QueueFull { waiting }));
        }
        state.orders.submissions.push(submission);
        self.wake_parked(state);
        Ok(())
    }

    /// Leaves the word that nobody waits for `id` any more.
    pub(crate) fn abort(&self, id: RequestId) {
        let mut state = lock(&self.state);
        if !state.closed {
            state.orders.aborts.push(id);
            self.wake_parked(state);
        }
    }

    /// Leaves the word that `id` has said all that was wanted.
    pub(crate) fn stop(&self, id: RequestId) {
        let mut state = lock(&self.state);
        if !state.closed {
            state.orders.stops.push(id);
            self.wake_parked(state);
        }
    }

    /// Leaves the word to flush the prefix cache, unless as many wait for that as may wait at all.
    pub(crate) fn flush(&self, answer: oneshot::Sender<u32>) -> Result<(), Refusal> {
        let mut state = lock(&self.state);
        let waiting = state.orders.flushes.len() as u32;
        if state.closed {
            return Err(Refusal::Unavailable);
        }
        if waiting >= self.submissions_max {
            return Err(Refusal::Reject(Reject::QueueFull { waiting }));
        }
        state.orders.flushes.push(answer);
        self.wake_parked(state);
        Ok(())
    }

    /// Takes the word to end everything, for whoever acts while there is no loop. What has not been
    /// taken in yet is dropped with it.
    pub(crate) fn take_abort_all(&self) -> bool {
        let mut state = lock(&self.state);
        let everything = std::mem::take(&mut state.orders.abort_all);
        if everything {
            let submissions = std::mem::take(&mut state.orders.submissions);
            drop(state);
            drop(submissions);
        }
        everything
    }

    /// Leaves the word to end everything.
    pub(crate) fn abort_all(&self) {
        let mut state = lock(&self.state);
        state.orders.abort_all = true;
        self.wake_parked(state);
    }

    /// Refuses submissions from now on.
    pub(crate) fn drain(&self) {
        let mut state = lock(&self.state);
        state.orders.draining = true;
        state.woken = true;
        self.wake_parked(state);
    }

    /// Whether [`Inbox::drain`] was called.
    pub(crate) fn is_draining(&self) -> bool {
        lock(&self.state).orders.draining
    }

    /// How many submissions lie in it.
    pub(crate) fn submissions(&self) -> u32 {
        lock(&self.state).orders.submissions.len() as u32
    }

    /// Makes the loop look at its clock again.
    pub(crate) fn wake(&self) {
        let mut state = lock(&self.state);
        state.woken = true;
        self.wake_parked(state);
    }

    /// Takes everything; `orders` must be used up and lends its memory.
    pub(crate) fn take(&self, orders: &mut Orders<S>) {
        assert!(
            orders.submissions.is_empty() && orders.aborts.is_empty() && orders.stops.is_empty(),
            "orders are taken before the last ones were carried out"
        );
        let mut state = lock(&self.state);
        std::mem::swap(&mut state.orders, orders);
        state.orders.draining = orders.draining;
        state.orders.abort_all = false;
    }

    /// Refuses everything from now on and returns what was left.
    pub(crate) fn close(&self) -> Orders<S> {
        let mut state = lock(&self.state);
        state.closed = true;
        std::mem::take(&mut state.orders)
    }

    /// Sleeps until there is something to take, at most `sleep_max`. May wake without a reason.
    pub(crate) fn park(&self, sleep_max: Option<Duration>) {
        let mut state = lock(&self.state);
        let Orders {
            submissions,
            aborts,
            stops,
            flushes,
            abort_all,
            draining: _,
        } = &state.orders;
        let idle = submissions.is_empty()
            && aborts.is_empty()
            && stops.is_empty()
            && flushes.is_empty()
            && !abort_all;
        if idle && !state.woken {
            state.parked = true;
            state = wait(&self.signal, state, sleep_max);
            state.parked = false;
        }
        state.woken = false;
    }

    /// A signal costs a system call, so only a sleeper gets one.
    fn wake_parked(&self, state: MutexGuard<'_, State<S>>) {
        let parked = state.parked;
        drop(state);
        if parked {
            self.signal.notify_one();
        }
    }
}

/// Locks; a panic elsewhere does not take this data with it.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for `signal`, at most `sleep_max` or for ever. May return without a reason.
pub(crate) fn wait<'a, T>(
    signal: &Condvar,
    guard: MutexGuard<'a, T>,
    sleep_max: Option<Duration>,
) -> MutexGuard<'a, T> {
    match sleep_max {
        None => signal.wait(guard).unwrap_or_else(PoisonError::into_inner),
        Some(limit) => {
            signal
                .wait_timeout(guard, limit)
                .unwrap_or_else(PoisonError::into_inner)
                .0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_inbox_is_an_answer() {
        let inbox = Inbox::new(1);
        assert_eq!(inbox.submit('a'), Ok(()));
        assert_eq!(
            inbox.submit('b'),
            Err(Refusal::Reject(Reject::QueueFull { waiting: 1 }))
        );
        let mut orders = Orders::default();
        inbox.take(&mut orders);
        assert_eq!(orders.submissions, ['a']);
        assert_eq!(inbox.submit('c'), Ok(()));
    }

    #[test]
    fn draining_is_remembered_and_refuses() {
        let inbox = Inbox::new(4);
        inbox.submit('a').unwrap();
        inbox.drain();
        assert_eq!(inbox.submit('b'), Err(Refusal::Draining));
        let mut orders = Orders::default();
        for left in [vec!['a'], vec![]] {
            inbox.take(&mut orders);
            assert!(orders.draining);
            assert_eq!(orders.submissions, left);
            orders.submissions.clear();
        }
    }

    #[test]
    fn a_wake_before_the_park_is_not_lost() {
        let inbox = Inbox::<char>::new(4);
        inbox.wake();
        inbox.park(None);
        inbox.abort(RequestId(1));
        inbox.park(None);
    }

    #[test]
    fn a_closed_inbox_takes_nothing() {
        let inbox = Inbox::new(4);
        inbox.submit('a').unwrap();
        assert_eq!(inbox.close().submissions, ['a']);
        inbox.abort(RequestId(1));
        assert_eq!(inbox.submit('b'), Err(Refusal::Unavailable));
        assert!(inbox.close().aborts.is_empty());
    }
}

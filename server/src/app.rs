//! What every call can reach: the models, the limits, what runs, and how the process ends.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::arriving::Parts;
use crate::health::Readiness;
use crate::lifecycle::Lifecycle;
use crate::limits::Limits;
use crate::manager::Manager;
use crate::registry::Registry;
use crate::security::Security;
use crate::status::Fault;
use crate::sweeper::Sweeper;
use crate::trace::SpanSink;

/// The shared state of one server.
#[derive(Debug)]
pub struct App {
    /// The models served.
    pub registry: Registry,
    /// The bounds.
    pub limits: Limits,
    /// Who may do what.
    pub security: Arc<Security>,
    /// How it ends.
    pub lifecycle: Lifecycle,
    /// Renders `/metrics`; without a recorder the page is empty.
    pub metrics: Option<PrometheusHandle>,
    /// Whether it is ready, now and later.
    pub readiness: watch::Sender<Readiness>,
    /// The generations that run, by request id.
    pub(crate) running: Running,
    /// One permit for each call of `Inference`.
    pub(crate) calls: Arc<Semaphore>,
    /// One permit for each call that may wait for one of `calls` with its message at hand.
    pub(crate) waiting: Semaphore,
    /// What messages that have not arrived whole take.
    pub(crate) arriving: Parts,
    /// Ends answers that nobody reads.
    pub(crate) sweeper: Sweeper,
    pub(crate) ids: Ids,
    /// Who started the process and wants to hear of it.
    pub manager: Manager,
    /// Who is told of calls that ended.
    pub spans: Option<SpanSink>,
    /// Seconds since 1970 as templates see them.
    pub now: fn() -> i64,
}

impl App {
    /// A server of these models that has not begun to listen.
    pub fn new(registry: Registry, limits: Limits, metrics: Option<PrometheusHandle>) -> Self {
        Self {
            registry,
            calls: Arc::new(Semaphore::new(limits.calls_max)),
            waiting: Semaphore::new(limits.calls_max),
            arriving: Parts::new(limits.arriving_bytes_max()),
            limits,
            security: Arc::default(),
            lifecycle: Lifecycle::default(),
            metrics,
            readiness: watch::Sender::new(Readiness::default()),
            running: Running::default(),
            sweeper: Sweeper::default(),
            ids: Ids::default(),
            manager: Manager::default(),
            spans: None,
            now: engine::clock::unix_seconds,
        }
    }

    /// A place among the calls that run at once.
    pub(crate) fn take_place(&self) -> Result<OwnedSemaphorePermit, Fault> {
        Arc::clone(&self.calls)
            .try_acquire_owned()
            .map_err(|_| self.no_place())
    }

    /// There is no such place.
    pub(crate) fn no_place(&self) -> Fault {
        let calls_max = self.limits.calls_max;
        Fault::queue_full(format!("{calls_max} calls run already")).with("calls_max", calls_max)
    }
}

/// The generations that run, so that `Control.Abort` finds them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Running(Arc<Mutex<Table>>);

/// Request ids need not be unique, so each entry has a number of its own.
#[derive(Debug, Default)]
struct Table {
    entries: u64,
    by_id: HashMap<String, Vec<(u64, CancellationToken)>>,
}

/// One entry of [`Running`]; leaves it when dropped.
#[derive(Debug)]
pub(crate) struct RunningEntry {
    running: Running,
    request_id: String,
    entry: u64,
    /// Cancelled when somebody aborts this request.
    pub(crate) aborted: CancellationToken,
}

impl Running {
    /// Enters a generation.
    pub(crate) fn enter(&self, request_id: &str) -> RunningEntry {
        let aborted = CancellationToken::new();
        let mut table = self.table();
        table.entries += 1;
        let entry = table.entries;
        table
            .by_id
            .entry(request_id.to_owned())
            .or_default()
            .push((entry, aborted.clone()));
        RunningEntry {
            running: self.clone(),
            request_id: request_id.to_owned(),
            entry,
            aborted,
        }
    }

    /// Aborts the generations of a request id; answers how many there were.
    pub(crate) fn abort(&self, request_id: &str) -> usize {
        let found = self
            .table()
            .by_id
            .get(request_id)
            .cloned()
            .unwrap_or_default();
        for (_, aborted) in &found {
            aborted.cancel();
        }
        found.len()
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        // Every change of the table is one call, so a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RunningEntry {
    fn drop(&mut self) {
        let mut table = self.running.table();
        if let Some(entries) = table.by_id.get_mut(&self.request_id) {
            entries.retain(|(entry, _)| *entry != self.entry);
            if entries.is_empty() {
                table.by_id.remove(&self.request_id);
            }
        }
    }
}

/// Makes request ids and seeds: different in every process, and never twice in one.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    process: RandomState,
    count: AtomicU64,
}

impl Ids {
    /// A new request id.
    pub(crate) fn request_id(&self) -> String {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}-{count:x}", self.process.hash_one("process"))
    }

    /// A new seed.
    pub(crate) fn seed(&self) -> u64 {
        self.process
            .hash_one(self.count.fetch_add(1, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abort_reaches_every_generation_of_an_id_and_no_other() {
        let running = Running::default();
        let (first, second, other) = (running.enter("a"), running.enter("a"), running.enter("b"));
        assert_eq!(running.abort("a"), 2);
        assert!(first.aborted.is_cancelled() && second.aborted.is_cancelled());
        assert!(!other.aborted.is_cancelled());
        drop((first, second));
        assert_eq!(running.abort("a"), 0);
        assert_eq!(running.table().by_id.len(), 1);
    }

    #[test]
    fn ids_and_seeds_are_never_the_same() {
        let ids = Ids::default();
        let made: std::collections::HashSet<String> = (0..100).map(|_| ids.request_id()).collect();
        assert_eq!(made.len(), 100);
        assert_ne!(ids.seed(), ids.seed());
    }
}

//! Files that are read again when they change: certificates and keys. What cannot be read leaves
//! what was read before.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use metrics::counter;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

use crate::metrics::RELOADS;

/// What files are read as.
pub trait Source: fmt::Debug + Send + Sync + 'static {
    /// What they hold.
    type Value: Send + Sync + 'static;
    /// The word for them in metrics and logs.
    const WHAT: &'static str;

    /// The files.
    fn files(&self) -> Vec<PathBuf>;
    /// Reads them all.
    fn load(&self) -> Result<Self::Value, LoadError>;
    /// What they hold is in use from now on.
    fn applied(&self, _value: &Self::Value) {}
}

/// A file that cannot be used. Says nothing of what is in it, for it may be a secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", path.display())]
pub struct LoadError {
    /// Which.
    pub path: PathBuf,
    /// What is wrong with it.
    pub message: String,
}

impl LoadError {
    /// Something is wrong with a file.
    pub fn new(path: &Path, message: impl fmt::Display) -> Self {
        Self {
            path: path.to_owned(),
            message: message.to_string(),
        }
    }
}

/// What files hold now.
pub struct Live<S: Source> {
    source: S,
    current: RwLock<Arc<S::Value>>,
    /// The files as they were when they were read.
    read: Prints,
    again: Notify,
}

/// What tells one state of a file from another; `None` while there is no such file.
type Prints = Vec<Option<[i64; 6]>>;

/// The words for what came of reading again.
const OK: &str = "ok";
const FAILED: &str = "failed";

/// Why files are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// It is time again.
    Routine,
    /// Somebody asked for it.
    Asked,
}

impl<S: Source> Live<S> {
    /// Reads files for the first time.
    pub fn load(source: S) -> Result<Self, LoadError> {
        // Before they are read: what changes in between is read again.
        let read = prints(&source);
        let value = source.load()?;
        source.applied(&value);
        for outcome in [OK, FAILED] {
            counter!(RELOADS, "what" => S::WHAT, "outcome" => outcome).absolute(0);
        }
        Ok(Self {
            source,
            current: RwLock::new(Arc::new(value)),
            read,
            again: Notify::new(),
        })
    }

    /// What they hold now.
    pub fn current(&self) -> Arc<S::Value> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    }

    /// Where it comes from.
    pub(crate) fn source(&self) -> &S {
        &self.source
    }

    /// Reads them again soon, changed or not.
    pub fn reload(&self) {
        self.again.notify_one();
    }

    /// Reads them again whenever they have changed and changed no more since the look before: several
    /// files are not replaced in one moment. Run as a task of its own.
    pub(crate) async fn follow(self: Arc<Self>, every: Duration) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut tried, mut seen) = (self.read.clone(), self.read.clone());
        loop {
            let look = tokio::select! {
                _ = ticks.tick() => Look::Routine,
                () = self.again.notified() => Look::Asked,
            };
            let this = Arc::clone(&self);
            // Files may be far away.
            let looked = tokio::task::spawn_blocking(move || this.look(look, &tried, &seen)).await;
            let Ok(looked) = looked else { return };
            (tried, seen) = looked;
        }
    }

    /// One look; answers the files as they were last tried and as they are.
    fn look(&self, look: Look, tried: &Prints, seen: &Prints) -> (Prints, Prints) {
        let now = prints(&self.source);
        let settled = now == *seen && now != *tried;
        if !settled && look == Look::Routine {
            return (tried.clone(), now);
        }
        // Whatever a file makes of its reader, the next one is read again.
        let outcome = match catch_unwind(AssertUnwindSafe(|| self.source.load())) {
            Ok(Ok(value)) => {
                self.source.applied(&value);
                let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
                *current = Arc::new(value);
                tracing::info!(what = S::WHAT, "read again");
                OK
            }
            Ok(Err(error)) => {
                tracing::warn!(what = S::WHAT, %error, "cannot be read; what was read before stays");
                FAILED
            }
            Err(_panic) => {
                tracing::error!(
                    what = S::WHAT,
                    "reading broke off; what was read before stays"
                );
                "failed"
            }
        };
        counter!(RELOADS, "what" => S::WHAT, "outcome" => outcome).increment(1);
        (now.clone(), now)
    }
}

fn prints(source: &impl Source) -> Prints {
    let print = |found: Metadata| {
        let length = found.size() as i64;
        let inode = found.ino() as i64;
        let changed = [found.ctime(), found.ctime_nsec()];
        let written = [found.mtime(), found.mtime_nsec()];
        [
            length, inode, changed[0], changed[1], written[0], written[1],
        ]
    };
    let files = source.files();
    let found = files.iter().map(|path| std::fs::metadata(path).ok());
    found.map(|found| found.map(print)).collect()
}

impl<S: Source> fmt::Debug for Live<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Live").field(&self.source).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A file with a number in it.
    #[derive(Debug)]
    struct Number {
        path: PathBuf,
        loads: Arc<AtomicUsize>,
    }

    impl Source for Number {
        type Value = u32;
        const WHAT: &'static str = "number";
        fn files(&self) -> Vec<PathBuf> {
            vec![self.path.clone()]
        }
        fn load(&self) -> Result<u32, LoadError> {
            self.loads.fetch_add(1, Ordering::SeqCst);
            let text = std::fs::read_to_string(&self.path);
            let text = text.map_err(|error| LoadError::new(&self.path, error))?;
            assert_ne!(text, "panic");
            text.parse()
                .map_err(|error| LoadError::new(&self.path, error))
        }
    }

    /// One look after another, with the state of the loop in between.
    struct Looks {
        live: Live<Number>,
        state: (Prints, Prints),
        loads: Arc<AtomicUsize>,
    }

    impl Looks {
        fn at(path: &Path) -> Self {
            let loads = Arc::new(AtomicUsize::new(0));
            let live = Live::load(Number {
                path: path.to_owned(),
                loads: Arc::clone(&loads),
            })
            .unwrap();
            let state = (live.read.clone(), live.read.clone());
            Self { live, state, loads }
        }

        /// The value and how often it was read until then.
        fn look(&mut self, look: Look) -> (u32, usize) {
            self.state = self.live.look(look, &self.state.0, &self.state.1);
            (*self.live.current(), self.loads.load(Ordering::SeqCst))
        }
    }

    #[test]
    fn a_file_is_read_again_once_it_has_changed_and_settled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        std::fs::write(&path, "1").unwrap();
        let mut looks = Looks::at(&path);
        assert_eq!(looks.look(Look::Routine), (1, 1));
        std::fs::write(&path, "22").unwrap();
        assert_eq!(looks.look(Look::Routine), (1, 1), "it may change more");
        assert_eq!(looks.look(Look::Routine), (22, 2));
        assert_eq!(looks.look(Look::Routine), (22, 2));
        assert_eq!(looks.look(Look::Asked), (22, 3));
    }

    #[test]
    fn what_cannot_be_read_is_tried_once_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        std::fs::write(&path, "1").unwrap();
        let mut looks = Looks::at(&path);
        std::fs::write(&path, "broken").unwrap();
        for _ in 0..5 {
            looks.look(Look::Routine);
        }
        assert_eq!(looks.look(Look::Routine), (1, 2));
        std::fs::write(&path, "panic").unwrap();
        looks.look(Look::Routine);
        assert_eq!(looks.look(Look::Routine), (1, 3));
        std::fs::remove_file(&path).unwrap();
        for _ in 0..5 {
            looks.look(Look::Routine);
        }
        assert_eq!(looks.look(Look::Routine), (1, 4));
        std::fs::write(&path, "333").unwrap();
        looks.look(Look::Routine);
        assert_eq!(looks.look(Look::Routine), (333, 5));
    }
}

//! A model on its way from the hub to a folder: resolved, listed, downloaded, linked.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::answer::Remote;
use crate::api::Api;
use crate::cache::{Repo, read_index};
use crate::clock::{Clock, Stop, SystemClock};
use crate::error::HubError;
use crate::http::Http;
use crate::id::{Commit, ModelId, Revision};
use crate::observe::{Event, Observer};
use crate::retry::Attempts;
use crate::select::{self, INDEX, SINGLE};
use crate::settings::Settings;
use crate::transfer::Transfer;

pub use crate::select::Want;

/// The hub and the cache.
#[derive(Clone)]
pub struct Hub {
    settings: Settings,
    http: Arc<Http>,
    clock: Arc<dyn Clock>,
}

/// A model's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The folder.
    pub folder: PathBuf,
    /// The commit that everything in it is of.
    pub commit: Commit,
    /// Who said that the revision is this commit.
    pub origin: Origin,
    /// Bytes of the weights' files, if the hub was asked.
    pub weights_bytes: Option<u64>,
}

/// Who said which commit a revision is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The hub, now.
    Hub,
    /// The cache, from an earlier time.
    Cache,
}

impl Hub {
    /// The hub that the settings name.
    pub fn new(settings: Settings) -> Result<Self, HubError> {
        Self::with_clock(settings, Arc::new(SystemClock::default()))
    }

    /// The same by another clock.
    pub fn with_clock(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, HubError> {
        let http = Arc::new(Http::new(&settings)?);
        Ok(Self {
            settings,
            http,
            clock,
        })
    }

    /// Where the hub and the cache are.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The clock that it goes by.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    /// Has so much of a model, downloading what is missing. A commit that is complete in the cache
    /// is taken without a question to the hub; so is the last known one when the hub cannot be
    /// asked.
    pub fn fetch(
        &self,
        model: &ModelId,
        revision: &Revision,
        want: Want,
        observer: &dyn Observer,
    ) -> Result<Snapshot, HubError> {
        let cached = || self.cached(model, revision, want);
        if revision.commit().is_some()
            && let Some(snapshot) = cached()
        {
            return Ok(snapshot);
        }
        if self.settings.offline {
            return cached().ok_or_else(|| self.offline(model, revision));
        }
        let stop = Stop::default();
        let attempts = Attempts {
            clock: &*self.clock,
            observer,
            stop: &stop,
        };
        let (commit, files) = match self.listing(model, revision, &attempts) {
            Err(error) if error.is_outage() => {
                let Some(snapshot) = cached() else {
                    return Err(error);
                };
                observer.note(&Event::Warning {
                    message: format!("{error}; commit {} of the cache is used", snapshot.commit),
                });
                return Ok(snapshot);
            }
            listing => listing?,
        };
        let download = Download {
            hub: self,
            repo: &Repo::of(&self.settings.cache, model),
            model,
            commit: &commit,
            attempts: &attempts,
        };
        download.all(&files, want)?;
        download.record(revision);
        Ok(Snapshot {
            folder: download.repo.snapshot(&commit),
            origin: Origin::Hub,
            weights_bytes: Some(select::weights_bytes(&files)),
            commit,
        })
    }

    /// What the cache has of a model, if that is so much.
    pub fn cached(&self, model: &ModelId, revision: &Revision, want: Want) -> Option<Snapshot> {
        let repo = Repo::of(&self.settings.cache, model);
        let commit = repo.commit(revision)?;
        repo.holds(&commit, want).then(|| Snapshot {
            folder: repo.snapshot(&commit),
            commit,
            origin: Origin::Cache,
            weights_bytes: None,
        })
    }

    /// What is wrong with a model that is not in the cache, where nothing may be downloaded.
    pub fn offline(&self, model: &ModelId, revision: &Revision) -> HubError {
        HubError::Offline {
            model: model.clone(),
            revision: revision.to_string(),
            cache: self.settings.cache.clone(),
        }
    }

    /// The folders of all commits of a model of which the cache has anything, or of one revision.
    pub fn snapshots(&self, model: &ModelId, revision: Option<&Revision>) -> Vec<PathBuf> {
        let repo = Repo::of(&self.settings.cache, model);
        let commits = match revision {
            None => repo.commits(),
            Some(revision) => repo.commit(revision).into_iter().collect(),
        };
        let folders = commits.iter().map(|commit| repo.snapshot(commit));
        folders.filter(|folder| folder.is_dir()).collect()
    }

    fn listing(
        &self,
        model: &ModelId,
        revision: &Revision,
        attempts: &Attempts<'_>,
    ) -> Result<(Commit, Vec<Remote>), HubError> {
        let api = self.api(model);
        let commit = api.resolve(revision, attempts)?;
        if revision.commit().is_some_and(|asked| asked != commit) {
            return Err(HubError::Answer {
                place: model.to_string(),
                message: format!("commit {revision} was asked for, {commit} was named"),
            });
        }
        attempts.observer.note(&Event::Resolved {
            model,
            commit: &commit,
        });
        let files = api.tree(&commit, attempts)?;
        Ok((commit, files))
    }

    fn api<'a>(&'a self, model: &'a ModelId) -> Api<'a> {
        Api {
            http: &self.http,
            endpoint: self.settings.endpoint(),
            model,
        }
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hub").field(&self.settings).finish()
    }
}

/// One commit on its way.
struct Download<'a> {
    hub: &'a Hub,
    repo: &'a Repo,
    model: &'a ModelId,
    commit: &'a Commit,
    attempts: &'a Attempts<'a>,
}

impl Download<'_> {
    /// First what describes the model, then its weights: weights in the cache mean that the rest is
    /// there too.
    fn all(&self, files: &[Remote], want: Want) -> Result<(), HubError> {
        self.several(&select::description(files, want, self.model)?)?;
        if want != Want::Everything {
            return Ok(());
        }
        let is_single = files.iter().any(|file| file.path == SINGLE);
        let index = if is_single {
            None
        } else {
            let folder = self.repo.snapshot(self.commit);
            let index = read_index(&folder).ok_or_else(|| HubError::Incomplete {
                model: self.model.clone(),
                file: INDEX.to_owned(),
            })?;
            Some(index)
        };
        self.several(&select::weights(files, index.as_deref(), self.model)?)
    }

    /// Several files at once.
    fn several(&self, files: &[&Remote]) -> Result<(), HubError> {
        // Files of the same contents are one blob.
        let mut blobs = BTreeSet::new();
        let missing: Vec<&Remote> = files
            .iter()
            .filter(|file| !self.repo.has_blob(file) && blobs.insert(&file.digest))
            .copied()
            .collect();
        if !missing.is_empty() {
            self.transfer(&missing)?;
        }
        for file in files {
            self.repo.link(self.commit, file)?;
        }
        Ok(())
    }

    fn transfer(&self, missing: &[&Remote]) -> Result<(), HubError> {
        let bytes = |sum: u64, file: &&Remote| sum.saturating_add(file.bytes);
        self.attempts.observer.note(&Event::Planned {
            files: missing.len(),
            bytes: missing.iter().fold(0, bytes),
        });
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let work = || {
            while let Some(file) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                let transfer = Transfer {
                    api: self.hub.api(self.model),
                    attempts: self.attempts,
                    repo: self.repo,
                    commit: self.commit,
                    file,
                };
                if let Err(error) = transfer.run() {
                    let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                    failure.get_or_insert(error);
                    self.attempts.stop.set();
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..missing.len().min(FILES_AT_ONCE) {
                scope.spawn(work);
            }
            work();
        });
        let failure = failure.into_inner();
        failure
            .unwrap_or_else(PoisonError::into_inner)
            .map_or(Ok(()), Err)
    }

    /// A cache that cannot be written serves what it has all the same.
    fn record(&self, revision: &Revision) {
        if let Err(error) = self.repo.record(revision, self.commit) {
            self.attempts.observer.note(&Event::Warning {
                message: format!("the commit is not noted in the cache: {error}"),
            });
        }
    }
}

/// As many as `huggingface_hub` downloads at once.
const FILES_AT_ONCE: usize = 8;

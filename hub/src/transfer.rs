//! The way of one file: under its lock into `HASH.incomplete`, resumed where an earlier attempt
//! ended, hashed on the way, and renamed to `HASH` only if that is what it hashes to.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::HeaderMap;

use crate::answer::Remote;
use crate::api::Api;
use crate::cache::{BlobLock, Repo, folder_of};
use crate::digest::{Hasher, PIECE_BYTES, copy};
use crate::error::{HubError, is_full};
use crate::http::{Answer, text};
use crate::id::Commit;
use crate::observe::Event;
use crate::retry::{Attempts, Failed};

/// One file on its way.
#[derive(Clone, Copy)]
pub(crate) struct Transfer<'a> {
    pub(crate) api: Api<'a>,
    pub(crate) attempts: &'a Attempts<'a>,
    pub(crate) repo: &'a Repo,
    pub(crate) commit: &'a Commit,
    pub(crate) file: &'a Remote,
}

impl Transfer<'_> {
    /// Brings the file into the cache, unless another process does.
    pub(crate) fn run(&self) -> Result<(), HubError> {
        let lock = self.lock()?;
        let (file, bytes) = (self.file.path.as_str(), self.file.bytes);
        if self.repo.has_blob(self.file) {
            self.note(&Event::Found { file, bytes });
        } else {
            self.download()?;
            self.note(&Event::Finished { file, bytes });
        }
        drop(lock);
        Ok(())
    }

    fn lock(&self) -> Result<BlobLock, HubError> {
        let mut told = false;
        loop {
            if let Some(lock) = self.repo.try_lock(&self.file.digest)? {
                return Ok(lock);
            }
            if self.attempts.stop.is_set() {
                return Err(HubError::Stopped);
            }
            if !told {
                let file = &self.file.path;
                self.note(&Event::Waiting { file });
                told = true;
            }
            self.attempts.clock.wait(LOCK_WAIT, self.attempts.stop);
        }
    }

    fn download(&self) -> Result<(), HubError> {
        let blob = self.repo.blob(&self.file.digest);
        folder_of(&blob)?;
        let mut partial = Partial::open(&blob, self.file)?;
        let (file, bytes) = (self.file.path.as_str(), self.file.bytes);
        self.note(&Event::Started {
            file,
            bytes,
            kept: partial.bytes,
        });
        loop {
            let received = self.attempts.run(|| self.attempt(&mut partial));
            let checked = received.and_then(|()| partial.check(self.file));
            match checked {
                Ok(()) => return partial.keep(&blob),
                // A part that an earlier attempt left may be what is wrong.
                Err(HubError::Corrupt { .. }) if partial.resumed => self.discard(&mut partial)?,
                Err(error) => {
                    if is_worthless(&error) {
                        partial.remove();
                    }
                    return Err(error);
                }
            }
        }
    }

    /// One request: brings all that is missing, or as much as comes.
    fn attempt(&self, partial: &mut Partial) -> Result<(), Failed> {
        if partial.bytes == self.file.bytes {
            return Ok(());
        }
        let answer = self
            .api
            .file(self.commit, self.file, partial.bytes, self.attempts)?;
        if answer.status == 416 {
            self.discard(partial)?;
            return Err(again(&answer, "has no such range", false));
        }
        if answer.status == 200 && partial.bytes > 0 {
            // It does not know of ranges.
            self.discard(partial)?;
        }
        let promised = promised(answer.status, &answer.headers);
        if promised.is_some_and(|(start, total)| start != partial.bytes || total != self.file.bytes)
        {
            return Err(self
                .corrupt("other bytes are sent than the hub's list names")
                .into());
        }
        partial.resumed |= partial.bytes > 0;
        self.receive(answer, partial)
    }

    fn receive(&self, mut answer: Answer, partial: &mut Partial) -> Result<(), Failed> {
        let before = partial.bytes;
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            if self.attempts.stop.is_set() {
                return Err(HubError::Stopped.into());
            }
            let count = match answer.body.read(&mut buffer) {
                Ok(0) if partial.bytes == self.file.bytes => return Ok(()),
                Ok(0) => return Err(self.broken(&answer, partial, before, "it ended")),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(self.broken(&answer, partial, before, &error.to_string()));
                }
            };
            if count as u64 > self.file.bytes - partial.bytes {
                return Err(self
                    .corrupt("more bytes are sent than the hub's list names")
                    .into());
            }
            partial.append(&buffer[..count])?;
            self.note(&Event::Received {
                file: &self.file.path,
                bytes: count as u64,
            });
        }
    }

    /// The connection ended early, after bytes from `before` on had come.
    fn broken(&self, answer: &Answer, partial: &Partial, before: u64, why: &str) -> Failed {
        let (got, of) = (partial.bytes, self.file.bytes);
        let message = format!("the connection broke after {got} of {of} bytes: {why}");
        again(answer, &message, got - before >= ADVANCE_BYTES)
    }

    fn discard(&self, partial: &mut Partial) -> Result<(), HubError> {
        self.note(&Event::Discarded {
            file: &self.file.path,
            bytes: partial.bytes,
        });
        partial.reset(self.file)
    }

    fn corrupt(&self, message: &str) -> HubError {
        HubError::Corrupt {
            file: self.file.path.clone(),
            message: message.to_owned(),
        }
    }

    fn note(&self, event: &Event<'_>) {
        self.attempts.observer.note(event);
    }
}

/// The file that is not complete yet.
struct Partial {
    path: PathBuf,
    file: File,
    bytes: u64,
    hasher: Hasher,
    /// Whether it was put together from several attempts.
    resumed: bool,
}

impl Partial {
    /// Opens what an earlier process left, or a new file.
    fn open(blob: &Path, remote: &Remote) -> Result<Self, HubError> {
        let mut path = blob.as_os_str().to_owned();
        path.push(".incomplete");
        let path = PathBuf::from(path);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| HubError::create(&path, error))?;
        let fail = |error| HubError::io(&path, error);
        let length = file.metadata().map_err(fail)?.len();
        let kept = if length > remote.bytes { 0 } else { length };
        if kept < length {
            file.set_len(0).map_err(fail)?;
        }
        let mut hasher = remote.digest.hasher(remote.bytes);
        let bytes = copy(&mut (&mut file).take(kept), &mut hasher, &mut |_| {}).map_err(fail)?;
        Ok(Self {
            path,
            file,
            bytes,
            hasher,
            resumed: bytes > 0,
        })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file
            .write_all(bytes)
            .map_err(|error| HubError::io(&self.path, error))?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn reset(&mut self, remote: &Remote) -> Result<(), HubError> {
        let reset = self.file.set_len(0);
        let reset = reset.and_then(|()| self.file.seek(SeekFrom::Start(0)));
        reset.map_err(|error| HubError::io(&self.path, error))?;
        self.bytes = 0;
        self.hasher = remote.digest.hasher(remote.bytes);
        self.resumed = false;
        Ok(())
    }

    fn check(&self, remote: &Remote) -> Result<(), HubError> {
        let found = self.hasher.clone().finish();
        if found == remote.digest {
            return Ok(());
        }
        Err(HubError::Corrupt {
            file: remote.path.clone(),
            message: format!("{found} was received, the hub names {}", remote.digest),
        })
    }

    /// Gives the file its name, after its contents have reached the disk.
    fn keep(self, blob: &Path) -> Result<(), HubError> {
        let fail = |error| HubError::io(&self.path, error);
        self.file.sync_all().map_err(fail)?;
        fs::rename(&self.path, blob).map_err(fail)?;
        let folder = blob.parent().unwrap_or(blob);
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| HubError::io(folder, error))
    }

    /// Best effort: there is an error already, which says more.
    fn remove(self) {
        drop(fs::remove_file(&self.path));
    }
}

/// Whether what was received until this happened would not help another attempt, or is what fills
/// the disk.
fn is_worthless(error: &HubError) -> bool {
    match error {
        HubError::Corrupt { .. } => true,
        HubError::Io { source, .. } => is_full(source),
        _ => false,
    }
}

fn again(answer: &Answer, message: &str, advanced: bool) -> Failed {
    Failed::Again {
        error: HubError::Network {
            place: answer.place.clone(),
            message: message.to_owned(),
        },
        after: None,
        advanced,
    }
}

/// Where the bytes of an answer begin and how long the whole file is, as far as its headers say.
pub(crate) fn promised(status: u16, headers: &HeaderMap) -> Option<(u64, u64)> {
    if status == 206 {
        let range = text(headers, "content-range")?;
        let (range, total) = range.strip_prefix("bytes ")?.split_once('/')?;
        let (start, _) = range.split_once('-')?;
        return Some((start.parse().ok()?, total.parse().ok()?));
    }
    let length = text(headers, "content-length")?;
    Some((0, length.parse().ok()?))
}

/// An attempt that brought so much was worth it, however it ended.
const ADVANCE_BYTES: u64 = 1 << 20;
/// How often the lock of another process is tried.
const LOCK_WAIT: Duration = Duration::from_millis(200);

//! The cache as `huggingface_hub` lays it out, so that one is shared with what is written in Python:
//!
//! ```text
//! models--org--name/refs/main                     the commit, as text
//! models--org--name/snapshots/COMMIT/config.json  a link to ../../blobs/HASH
//! models--org--name/blobs/HASH                    the contents
//! models--org--name/blobs/HASH.incomplete         what is not complete yet
//! .locks/models--org--name/HASH.lock              held while HASH is downloaded
//! ```

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::answer::Remote;
use crate::digest::Digest;
use crate::error::HubError;
use crate::id::{Commit, ModelId, Revision};
use crate::select::{CONFIG, INDEX, SINGLE, Want, shards};

/// One model's folders.
#[derive(Clone, Debug)]
pub(crate) struct Repo {
    folder: PathBuf,
    locks: PathBuf,
}

/// Held while a blob is downloaded; given back when dropped, also by the end of the process.
#[derive(Debug)]
pub(crate) struct BlobLock(#[expect(dead_code, reason = "closing it is giving it back")] File);

impl Repo {
    /// The folders of a model below `cache`.
    pub(crate) fn of(cache: &Path, model: &ModelId) -> Self {
        let name = format!("models--{}", model.as_str().replace('/', "--"));
        Self {
            folder: cache.join(&name),
            locks: cache.join(".locks").join(name),
        }
    }

    /// Where the contents of that hash are.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs").join(digest.as_str())
    }

    /// The folder of a commit.
    pub(crate) fn snapshot(&self, commit: &Commit) -> PathBuf {
        self.folder.join("snapshots").join(commit.as_str())
    }

    /// The commit that a revision was when it was last resolved.
    pub(crate) fn commit(&self, revision: &Revision) -> Option<Commit> {
        revision.commit().or_else(|| {
            let file = File::open(self.reference(revision)).ok()?;
            let mut text = String::new();
            file.take(REF_BYTES_MAX).read_to_string(&mut text).ok()?;
            named(&text)
        })
    }

    /// All commits of which there is anything.
    pub(crate) fn commits(&self) -> Vec<Commit> {
        let entries = fs::read_dir(self.folder.join("snapshots"));
        let names = entries.into_iter().flatten().flatten();
        let commit = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
        let mut commits: Vec<Commit> = names.filter_map(commit).collect();
        commits.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        commits
    }

    /// Whether so much of a commit is there.
    pub(crate) fn holds(&self, commit: &Commit, want: Want) -> bool {
        let folder = self.snapshot(commit);
        let has = |name: &str| folder.join(name).is_file();
        has(CONFIG)
            && match want {
                Want::Config => true,
                Want::Description => has("tokenizer.json"),
                Want::Everything if has(SINGLE) => true,
                Want::Everything => read_index(&folder)
                    .and_then(|index| shards(&index))
                    .is_some_and(|shards| shards.iter().all(|shard| has(shard))),
            }
    }

    /// Whether a blob is there whole. It has its name only when it was; its length is looked at
    /// because others write here too.
    pub(crate) fn has_blob(&self, file: &Remote) -> bool {
        fs::metadata(self.blob(&file.digest))
            .is_ok_and(|found| found.is_file() && found.len() == file.bytes)
    }

    /// Notes what a revision is now.
    pub(crate) fn record(&self, revision: &Revision, commit: &Commit) -> Result<(), HubError> {
        if self.commit(revision).as_ref() == Some(commit) {
            return Ok(());
        }
        let path = self.reference(revision);
        let temporary = beside(&path);
        folder_of(&path)?;
        fs::write(&temporary, commit.as_str())
            .map_err(|error| HubError::create(&temporary, error))?;
        fs::rename(&temporary, &path).map_err(|error| HubError::create(&path, error))
    }

    /// Gives a blob its name in a commit.
    pub(crate) fn link(&self, commit: &Commit, file: &Remote) -> Result<(), HubError> {
        let path = self.snapshot(commit).join(&file.path);
        let up = "../".repeat(file.path.split('/').count() + 1);
        let target = PathBuf::from(format!("{up}blobs/{}", file.digest.as_str()));
        if fs::read_link(&path).is_ok_and(|found| found == target) {
            return Ok(());
        }
        folder_of(&path)?;
        let temporary = beside(&path);
        let fail = |error| HubError::create(&path, error);
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
            _ => {}
        }
        symlink(&target, &temporary).map_err(fail)?;
        fs::rename(&temporary, &path).map_err(fail)
    }

    /// Takes the lock of a blob, the one that `huggingface_hub` takes; `None` while somebody else
    /// has it.
    pub(crate) fn try_lock(&self, digest: &Digest) -> Result<Option<BlobLock>, HubError> {
        let path = self.locks.join(format!("{}.lock", digest.as_str()));
        folder_of(&path)?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| HubError::create(&path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(BlobLock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(HubError::io(&path, error)),
        }
    }

    fn reference(&self, revision: &Revision) -> PathBuf {
        self.folder.join("refs").join(revision.as_str())
    }
}

/// The commit in a reference.
pub(crate) fn named(reference: &str) -> Option<Commit> {
    reference.trim().parse().ok()
}

/// The index of a folder's weights.
pub(crate) fn read_index(folder: &Path) -> Option<Vec<u8>> {
    let mut index = Vec::new();
    let file = File::open(folder.join(INDEX)).ok()?;
    file.take(INDEX_BYTES_MAX).read_to_end(&mut index).ok()?;
    Some(index)
}

/// Makes the folder that `path` is to lie in.
pub(crate) fn folder_of(path: &Path) -> Result<(), HubError> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(|error| HubError::create(folder, error))
}

/// A name of this process's own beside `path`.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

/// A commit, and a line's end.
const REF_BYTES_MAX: u64 = 64;
/// As much as is read of it when the model is loaded.
const INDEX_BYTES_MAX: u64 = 64 << 20;

//! What is on disk against the hashes that are known of it: the names of blobs in a cache, and the
//! notes that `hf download --local-dir` leaves in a folder.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cache::read_index;
use crate::digest::Digest;
use crate::error::HubError;
use crate::observe::{Event, Observer};
use crate::select::{SINGLE, shards};

/// What became of each file of a folder.
#[derive(Debug, Default)]
pub struct Report {
    /// The files, by name.
    pub files: Vec<Checked>,
}

/// One file and what became of it.
#[derive(Debug)]
pub struct Checked {
    /// Its name in the folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of a file.
#[derive(Debug)]
pub enum Verdict {
    /// It hashes to what it should.
    Good,
    /// Nobody said what it should hash to.
    Unknown,
    /// It hashes to something else.
    Bad {
        /// What it should hash to.
        expected: String,
        /// What it hashes to.
        found: String,
    },
    /// It should be there.
    Missing,
    /// It cannot be read.
    Unreadable(io::Error),
}

impl Report {
    /// The files that are not as they should be.
    pub fn bad(&self) -> impl Iterator<Item = &Checked> {
        let is_bad = |file: &&Checked| !matches!(file.verdict, Verdict::Good | Verdict::Unknown);
        self.files.iter().filter(is_bad)
    }

    /// The files that there is no hash for.
    pub fn unknown(&self) -> impl Iterator<Item = &Checked> {
        let is_unknown = |file: &&Checked| matches!(file.verdict, Verdict::Unknown);
        self.files.iter().filter(is_unknown)
    }

    /// Whether anything was compared with a hash, and all weights were.
    pub fn is_verified(&self) -> bool {
        self.unknown().count() < self.files.len()
            && !self.unknown().any(|file| is_weights(&file.name))
    }

    /// Whether there are any weights.
    pub fn has_weights(&self) -> bool {
        self.files.iter().any(|file| is_weights(&file.name))
    }

    /// How many files were compared with a hash and found good.
    pub fn good(&self) -> usize {
        let is_good = |file: &&Checked| matches!(file.verdict, Verdict::Good);
        self.files.iter().filter(is_good).count()
    }
}

/// Hashes every file of a folder.
pub fn verify(folder: &Path, observer: &dyn Observer) -> Result<Report, HubError> {
    let mut names = Vec::new();
    walk(folder, "", &mut names).map_err(|error| HubError::io(folder, error))?;
    names.sort_unstable();
    let mut files: BTreeMap<String, (u64, Option<Digest>)> = BTreeMap::new();
    for name in names {
        let path = folder.join(&name);
        let bytes = fs::metadata(&path).map_or(0, |found| found.len());
        let expected = expected(folder, &name);
        files.insert(name, (bytes, expected));
    }
    let hashed = files.values().filter(|(_, expected)| expected.is_some());
    if hashed.clone().next().is_some() {
        observer.note(&Event::Planned {
            files: hashed.clone().count(),
            bytes: hashed.fold(0, |sum, (bytes, _)| sum.saturating_add(*bytes)),
        });
    }
    let mut report = Report::default();
    for (name, (bytes, expected)) in &files {
        let verdict = check(&folder.join(name), name, expected.as_ref(), observer);
        report.files.push(Checked {
            name: name.clone(),
            bytes: *bytes,
            verdict,
        });
    }
    for name in missing_shards(folder) {
        if !files.contains_key(&name) {
            report.files.push(Checked {
                name,
                bytes: 0,
                verdict: Verdict::Missing,
            });
        }
    }
    Ok(report)
}

fn check(path: &Path, name: &str, expected: Option<&Digest>, observer: &dyn Observer) -> Verdict {
    let bytes = match fs::metadata(path) {
        Ok(found) => found.len(),
        // A link whose blob is gone.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Verdict::Missing,
        Err(error) => return Verdict::Unreadable(error),
    };
    let Some(expected) = expected else {
        return Verdict::Unknown;
    };
    observer.note(&Event::Started {
        file: name,
        bytes,
        kept: 0,
    });
    let seen = |bytes| observer.note(&Event::Received { file: name, bytes });
    let found = expected.of_file(path, seen);
    observer.note(&Event::Finished { file: name, bytes });
    match found {
        Ok(found) if found == *expected => Verdict::Good,
        Ok(found) => Verdict::Bad {
            expected: expected.to_string(),
            found: found.to_string(),
        },
        Err(error) => Verdict::Unreadable(error),
    }
}

/// What a file should hash to: the name of its blob, or the note of a download into this folder.
fn expected(folder: &Path, name: &str) -> Option<Digest> {
    let path = folder.join(name);
    let target = fs::read_link(&path).unwrap_or(path);
    let in_blobs = target.parent().and_then(Path::file_name) == Some("blobs".as_ref());
    if in_blobs && let Some(digest) = target.file_name().and_then(|name| name.to_str()) {
        return Digest::parse(digest);
    }
    let notes = folder.join(".cache/huggingface/download");
    let note = fs::read_to_string(notes.join(format!("{name}.metadata"))).ok()?;
    noted(&note)
}

/// The hash in a note.
pub(crate) fn noted(note: &str) -> Option<Digest> {
    Digest::parse(note.lines().nth(1)?.trim())
}

/// The names of all files below `folder`, hidden folders left out.
fn walk(folder: &Path, below: &str, names: &mut Vec<String>) -> io::Result<()> {
    if below.split('/').count() > DEPTH_MAX || names.len() > FILES_MAX {
        return Err(io::Error::other("too many files for a model's folder"));
    }
    let place: PathBuf = folder.join(below);
    for entry in fs::read_dir(place)? {
        let entry = entry?;
        let Ok(part) = entry.file_name().into_string() else {
            continue;
        };
        let name = if below.is_empty() {
            part.clone()
        } else {
            format!("{below}/{part}")
        };
        if !entry.file_type()?.is_dir() {
            names.push(name);
        } else if !part.starts_with('.') {
            walk(folder, &name, names)?;
        }
    }
    Ok(())
}

fn is_weights(name: &str) -> bool {
    Path::new(name).extension() == Some("safetensors".as_ref())
}

fn missing_shards(folder: &Path) -> Vec<String> {
    if folder.join(SINGLE).exists() {
        return Vec::new();
    }
    let shards = read_index(folder).and_then(|index| shards(&index));
    shards.into_iter().flatten().collect()
}

const DEPTH_MAX: usize = 16;
const FILES_MAX: usize = 100_000;

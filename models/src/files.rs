//! The files of one model: a local folder, the ones compiled into the binary, or some in memory.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Where a model's files are.
#[derive(Clone, Debug)]
pub enum ModelFiles {
    /// A folder as `huggingface_hub` lays it out.
    Folder(PathBuf),
    /// Files compiled into the binary: name and contents.
    Embedded(&'static [(&'static str, &'static [u8])]),
    /// Files made by the program itself: name and contents.
    Memory(Arc<[(&'static str, Vec<u8>)]>),
}

/// Why a file could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// There is no such file.
    #[error("{0}: no such file")]
    Missing(String),
    /// It could not be read.
    #[error("{0}: {1}")]
    Unreadable(String, io::Error),
}

impl ModelFiles {
    /// Reads a file whole: a regular one of a size that such a file may have. `name` may contain
    /// `/`; it never leaves the folder.
    pub fn read(&self, name: &str) -> Result<Cow<'static, [u8]>, FileError> {
        match self {
            Self::Folder(folder) => {
                let path = inside(folder, name)?;
                read_file(&path, bytes_max(name))
                    .map(Cow::Owned)
                    .map_err(|error| FileError::of(&path, error))
            }
            Self::Embedded(files) => files
                .iter()
                .find(|(file, _)| *file == name)
                .map(|(_, bytes)| Cow::Borrowed(*bytes))
                .ok_or_else(|| FileError::Missing(name.to_owned())),
            Self::Memory(files) => files
                .iter()
                .find(|(file, _)| *file == name)
                .map(|(_, bytes)| Cow::Owned(bytes.clone()))
                .ok_or_else(|| FileError::Missing(name.to_owned())),
        }
    }

    /// Reads a file that need not exist.
    pub fn read_optional(&self, name: &str) -> Result<Option<Cow<'static, [u8]>>, FileError> {
        match self.read(name) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(FileError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a file is there.
    pub(crate) fn has(&self, name: &str) -> Result<bool, FileError> {
        match self {
            Self::Folder(folder) => Ok(inside(folder, name)?.is_file()),
            Self::Embedded(files) => Ok(files.iter().any(|(file, _)| *file == name)),
            Self::Memory(files) => Ok(files.iter().any(|(file, _)| *file == name)),
        }
    }

    /// Where a file lies on disk; `None` when it does not.
    pub(crate) fn path(&self, name: &str) -> Result<Option<PathBuf>, FileError> {
        match self {
            Self::Folder(folder) => inside(folder, name).map(Some),
            Self::Embedded(_) | Self::Memory(_) => Ok(None),
        }
    }
}

impl FileError {
    /// The error of an operation on `path`.
    pub(crate) fn of(path: &Path, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing(path.display().to_string()),
            _ => Self::Unreadable(path.display().to_string(), error),
        }
    }
}

/// Before it is opened a path is looked at: opening a pipe would wait for its writer.
fn read_file(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    let read = File::open(path)?
        .take(bytes_max + 1)
        .read_to_end(&mut bytes)?;
    if read as u64 > bytes_max {
        let message = format!("more than the {bytes_max} bytes that such a file may have");
        return Err(io::Error::other(message));
    }
    Ok(bytes)
}

/// How long a file of that name may be: some eight times the longest that are published.
fn bytes_max(name: &str) -> u64 {
    match name {
        "tokenizer.json" => 256 << 20,
        "model.safetensors.index.json" => 64 << 20,
        _ => 16 << 20,
    }
}

/// The path of `name` below `folder`, or an error where it would lead out of it.
fn inside(folder: &Path, name: &str) -> Result<PathBuf, FileError> {
    if Path::new(name)
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
    {
        return Ok(folder.join(name));
    }
    let outside = io::Error::other("the name leads out of the model's folder");
    Err(FileError::Unreadable(name.to_owned(), outside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_never_lead_out_of_the_folder() {
        let files = ModelFiles::Folder(PathBuf::from("/etc"));
        for name in [
            "../etc/passwd",
            "/etc/passwd",
            "a/../../etc/passwd",
            "./passwd",
        ] {
            assert!(
                matches!(files.read(name), Err(FileError::Unreadable(..))),
                "{name}"
            );
        }
        assert!(files.read("passwd").is_ok());
    }

    #[test]
    fn only_regular_files_of_a_size_that_makes_sense_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let files = ModelFiles::Folder(folder.path().to_owned());
        let place = |name: &str| folder.path().join(name);
        let endless = place("config.json");
        std::os::unix::fs::symlink("/dev/zero", endless).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(place("socket.json")).unwrap();
        std::fs::create_dir(place("folder.json")).unwrap();
        for name in ["config.json", "socket.json", "folder.json"] {
            let error = files.read(name).unwrap_err().to_string();
            assert!(error.ends_with("not a regular file"), "{error}");
        }
        drop(socket);
        let long = File::create(place("long.json")).unwrap();
        long.set_len((16 << 20) + 1).unwrap();
        let error = files.read("long.json").unwrap_err().to_string();
        assert!(error.contains("more than the 16777216 bytes"), "{error}");
        long.set_len(16 << 20).unwrap();
        assert_eq!(files.read("long.json").unwrap().len(), 16 << 20);
    }

    #[test]
    fn embedded_files_are_found_by_name() {
        let files = ModelFiles::Embedded(&[("a/b.json", b"{}")]);
        assert_eq!(*files.read("a/b.json").unwrap(), *b"{}");
        assert!(matches!(files.read("b.json"), Err(FileError::Missing(_))));
        assert!(files.read_optional("b.json").unwrap().is_none());
    }
}

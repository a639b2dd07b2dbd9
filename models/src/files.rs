//! The files of one model: a local folder, or the ones compiled into the binary.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// Where a model's files are.
#[derive(Clone, Debug)]
pub enum ModelFiles {
    /// A folder as `huggingface_hub` lays it out.
    Folder(PathBuf),
    /// Files compiled into the binary: name and contents.
    Embedded(&'static [(&'static str, &'static [u8])]),
}

/// Why a file could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// There is no such file.
    #[error("{0}: no such file")]
    Missing(String),
    /// It could not be read.
    #[error("{0}: {1}")]
    Unreadable(String, std::io::Error),
}

impl ModelFiles {
    /// Reads a file whole. `name` may contain `/`; it never leaves the folder.
    pub fn read(&self, name: &str) -> Result<Cow<'static, [u8]>, FileError> {
        match self {
            Self::Folder(folder) => read_file(&folder.join(name)),
            Self::Embedded(files) => files
                .iter()
                .find(|(file, _)| *file == name)
                .map(|(_, bytes)| Cow::Borrowed(*bytes))
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
}

fn read_file(path: &Path) -> Result<Cow<'static, [u8]>, FileError> {
    std::fs::read(path).map(Cow::Owned).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => FileError::Missing(path.display().to_string()),
        _ => FileError::Unreadable(path.display().to_string(), error),
    })
}

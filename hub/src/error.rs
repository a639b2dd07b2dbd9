//! What can go wrong between the hub and a folder on disk, and the exit code of each.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::id::ModelId;

/// Why a model could not be had. No message holds a token or the query of an address.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Not an id.
    #[error("{0:?} is no model id: it is org/name, or the path of a local folder")]
    Id(String),
    /// Not a revision.
    #[error("{0:?} is no revision: it is a branch, a tag or a commit")]
    Revision(String),
    /// An environment variable is wrong; names it, not its value.
    #[error("{name}: {message}")]
    Variable {
        /// The variable.
        name: &'static str,
        /// What is wrong.
        message: &'static str,
    },
    /// Only commits are taken.
    #[error(
        "{model}: revision {revision:?} is not a commit of 40 hexadecimal digits, and --require-pinned is set"
    )]
    NotPinned {
        /// The model.
        model: ModelId,
        /// What was asked for.
        revision: String,
    },
    /// It is not in the cache, and nothing may be downloaded.
    #[error("{model} at {revision} is not in the cache {}, and HF_HUB_OFFLINE is set", cache.display())]
    Offline {
        /// The model.
        model: ModelId,
        /// What was asked for.
        revision: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// The hub does not have it.
    #[error("{0}: the hub has no such thing")]
    NotFound(String),
    /// The hub does not show it.
    #[error("{model}: the hub answered {status}: {hint}")]
    Refused {
        /// The model.
        model: ModelId,
        /// 401 or 403.
        status: u16,
        /// What may help.
        hint: String,
    },
    /// Only weights that can run code.
    #[error(
        "{model}: PICKLE_REFUSED: {file} can run code when it is read, and there is no safetensors file"
    )]
    Pickle {
        /// The model.
        model: String,
        /// One such file.
        file: String,
    },
    /// No weights at all.
    #[error("{model} has no {file}")]
    Incomplete {
        /// The model.
        model: ModelId,
        /// What is missing.
        file: String,
    },
    /// The hub said something that no hub says.
    #[error("{place}: {message}")]
    Answer {
        /// The address, without its query.
        place: String,
        /// What is wrong.
        message: String,
    },
    /// An answer that is not success.
    #[error("{place}: HTTP {status}")]
    Status {
        /// The address, without its query.
        place: String,
        /// The status.
        status: u16,
    },
    /// It asks for more patience than there is.
    #[error("{place}: HTTP {status}, try again in {} s", wait.as_secs())]
    Wait {
        /// The address, without its query.
        place: String,
        /// The status.
        status: u16,
        /// How long it wants us to wait.
        wait: Duration,
    },
    /// It cannot be reached, or the connection broke.
    #[error("{place}: {message}")]
    Network {
        /// The address, without its query.
        place: String,
        /// What happened.
        message: String,
    },
    /// Whoever answers is not who was asked for, or speaks no TLS. Another attempt would meet the same.
    #[error("{place}: {message}")]
    Tls {
        /// The address, without its query.
        place: String,
        /// What is wrong.
        message: String,
    },
    /// What was received is not what the hub named.
    #[error("{file}: {message}; what was received is removed")]
    Corrupt {
        /// The file.
        file: String,
        /// What differs.
        message: String,
    },
    /// A file or folder cannot be made.
    #[error("{} cannot be created: {source}", path.display())]
    Create {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another file failed first.
    #[error("stopped")]
    Stopped,
}

impl HubError {
    /// The exit code of a process that ends with this, of `sysexits.h`.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Answer { .. } => EXIT_DATA,
            Self::Create { .. } => EXIT_CANNOT_CREATE,
            Self::Status { .. }
            | Self::Wait { .. }
            | Self::Network { .. }
            | Self::Tls { .. }
            | Self::Corrupt { .. }
            | Self::Io { .. }
            | Self::Stopped => EXIT_IO,
            Self::Refused { .. } | Self::Pickle { .. } => EXIT_REFUSED,
            Self::Id(_)
            | Self::Revision(_)
            | Self::Variable { .. }
            | Self::NotPinned { .. }
            | Self::Offline { .. }
            | Self::NotFound(_)
            | Self::Incomplete { .. } => EXIT_CONFIG,
        }
    }

    /// Whether the hub could not be asked, so that what the cache has is the best there is.
    pub(crate) fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Status { .. } | Self::Wait { .. } | Self::Network { .. } | Self::Tls { .. }
        )
    }

    /// A file could not be made: for want of space, or for want of a right.
    pub(crate) fn create(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        if is_full(&source) {
            Self::Io { path, source }
        } else {
            Self::Create { path, source }
        }
    }

    /// A file could not be read or written.
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        Self::Io { path, source }
    }
}

/// Whether the disk, the quota or the largest file is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

const EXIT_DATA: u8 = 65;
const EXIT_CANNOT_CREATE: u8 = 73;
const EXIT_IO: u8 = 74;
const EXIT_REFUSED: u8 = 77;
const EXIT_CONFIG: u8 = 78;

//! What a download tells whoever watches it.

use std::time::Duration;

use crate::id::{Commit, ModelId};

/// Watches a download. Called from several threads, often: it must be quick.
pub trait Observer: Sync {
    /// Something happened.
    fn note(&self, event: &Event<'_>);
}

/// What happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A revision was resolved to a commit.
    Resolved {
        /// The model.
        model: &'a ModelId,
        /// The commit.
        commit: &'a Commit,
    },
    /// So much more is to be had.
    Planned {
        /// Files.
        files: usize,
        /// Bytes.
        bytes: u64,
    },
    /// A file's turn has come.
    Started {
        /// Its name.
        file: &'a str,
        /// Its length.
        bytes: u64,
        /// Of these, what an earlier attempt left.
        kept: u64,
    },
    /// Bytes of a file arrived.
    Received {
        /// Its name.
        file: &'a str,
        /// How many.
        bytes: u64,
    },
    /// What was received of a file is of no use; it begins again.
    Discarded {
        /// Its name.
        file: &'a str,
        /// How many bytes.
        bytes: u64,
    },
    /// A file is complete and verified.
    Finished {
        /// Its name.
        file: &'a str,
        /// Its length.
        bytes: u64,
    },
    /// Another process had downloaded it meanwhile.
    Found {
        /// Its name.
        file: &'a str,
        /// Its length.
        bytes: u64,
    },
    /// An attempt failed; there will be another one.
    Retrying {
        /// What went wrong.
        error: String,
        /// When.
        wait: Duration,
    },
    /// Another process downloads this file.
    Waiting {
        /// Its name.
        file: &'a str,
    },
    /// Something is not as it should be, and it goes on.
    Warning {
        /// What.
        message: String,
    },
}

/// Looks away.
#[derive(Clone, Copy, Debug)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn note(&self, _: &Event<'_>) {}
}

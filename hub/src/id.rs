//! What is asked of the hub: a model's id, a revision, a commit. Each is checked once, here, because
//! each becomes part of an address and of a path.

use std::fmt;
use std::str::FromStr;

use crate::error::HubError;

/// A model's id: `org/name`, or `name` alone as the oldest have it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelId(String);

/// A branch, a tag, a pull request (`refs/pr/1`) or a commit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Revision(String);

/// A commit: 40 hexadecimal digits in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Commit(String);

impl ModelId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without the organisation.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl FromStr for ModelId {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() <= 2 && parts.iter().all(|part| is_id_part(part)) {
            Ok(Self(text.to_owned()))
        } else {
            Err(HubError::Id(shortened(text)))
        }
    }
}

/// The hub's own rule; `--` separates the parts in the cache's folder names.
fn is_id_part(part: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=ID_PART_MAX).contains(&part.len())
        && part.chars().all(inner)
        && !part.starts_with(['-', '.'])
        && !part.ends_with(['-', '.'])
        && !part.contains("--")
        && !part.contains("..")
}

impl Revision {
    /// The revision as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The commit, if it is one.
    pub fn commit(&self) -> Option<Commit> {
        self.0.parse().ok()
    }
}

impl Default for Revision {
    fn default() -> Self {
        Self("main".to_owned())
    }
}

impl FromStr for Revision {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        if text.len() <= REVISION_MAX && is_path(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(HubError::Revision(shortened(text)))
        }
    }
}

impl From<Commit> for Revision {
    fn from(commit: Commit) -> Self {
        Self(commit.0)
    }
}

impl Commit {
    /// The commit as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Commit {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        if is_hex(text, 40) {
            Ok(Self(text.to_owned()))
        } else {
            Err(HubError::Revision(shortened(text)))
        }
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a name may stand below a folder of ours: plain parts, no way up, nothing that a terminal
/// or a file system would take for more than letters.
pub(crate) fn is_path(text: &str) -> bool {
    text.len() <= PATH_MAX
        && text.split('/').all(|part| {
            (1..=PART_MAX).contains(&part.len())
                && part != "."
                && part != ".."
                && !part.chars().any(|c| c.is_control() || c == '\\')
        })
}

/// Whether this is so many hexadecimal digits in lower case.
pub(crate) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// For messages: a wrong value may be of any length and hold anything; `{:?}` escapes it.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(SHOWN_MAX).collect()
}

/// The hub's own limit.
const ID_PART_MAX: usize = 96;
/// What file systems take as one name, with room for endings of ours.
const PART_MAX: usize = 200;
const PATH_MAX: usize = 1024;
const REVISION_MAX: usize = 200;
const SHOWN_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_hub() {
        for id in [
            "gpt2",
            "org/name",
            "Qwen/Qwen2.5-0.5B-Instruct",
            "a/b_c",
            "0/1",
        ] {
            assert_eq!(id.parse::<ModelId>().unwrap().as_str(), id);
        }
        let long = "a".repeat(97);
        for id in [
            "", "/", "a/", "/a", "a/b/c", "../a", "a/..", "a/.b", "a b", "a--b/c", "-a/b", "a/b-",
            "a/b\n", "ü/a", "a\\b", "a%2f", &long,
        ] {
            assert!(id.parse::<ModelId>().is_err(), "{id:?}");
        }
        assert_eq!("org/x".parse::<ModelId>().unwrap().name(), "x");
        assert_eq!("x".parse::<ModelId>().unwrap().name(), "x");
    }

    #[test]
    fn revisions_cannot_leave_their_folder() {
        for revision in ["main", "v1.0", "refs/pr/1", "feature/x"] {
            assert!(revision.parse::<Revision>().is_ok(), "{revision}");
        }
        let long = "a".repeat(201);
        for revision in [
            "", "/", "../x", "a/../b", "a//b", "a/", "/a", "a\0", "a\nb", "a\\b", ".", &long,
        ] {
            assert!(revision.parse::<Revision>().is_err(), "{revision:?}");
        }
    }

    #[test]
    fn commits_are_forty_digits() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert!(commit.parse::<Commit>().is_ok());
        assert!(commit.parse::<Revision>().unwrap().commit().is_some());
        for wrong in [&commit[1..], &commit.to_uppercase(), "main"] {
            assert!(wrong.parse::<Commit>().is_err(), "{wrong}");
            assert_eq!(wrong.parse::<Revision>().unwrap().commit(), None);
        }
    }
}

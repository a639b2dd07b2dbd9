//! The two hashes the hub names files by: SHA-256 of large files, git's SHA-1 of small ones.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::id::is_hex;

/// What a file must hash to. As text it is the file's name among the blobs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Digest {
    /// Of a file that git-lfs or xet keeps.
    Sha256(String),
    /// Of a file in git itself: SHA-1 over a header and the contents.
    Git(String),
}

impl Digest {
    /// Reads a blob's name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if is_hex(text, 64) {
            Some(Self::Sha256(text.to_owned()))
        } else if is_hex(text, 40) {
            Some(Self::Git(text.to_owned()))
        } else {
            None
        }
    }

    /// The hexadecimal digits.
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Sha256(hex) | Self::Git(hex) => hex,
        }
    }

    /// Hashes a file of `bytes` bytes.
    pub(crate) fn hasher(&self, bytes: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Self::Git(_) => {
                let mut hasher = Sha1::new();
                hasher.update(format!("blob {bytes}\0"));
                Hasher::Git(hasher)
            }
        }
    }

    /// What the file at `path` hashes to; `seen` is told of every piece.
    pub(crate) fn of_file(&self, path: &Path, mut seen: impl FnMut(u64)) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut hasher = self.hasher(file.metadata()?.len());
        copy(&mut file, &mut hasher, &mut seen)?;
        Ok(hasher.finish())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(hex) => write!(f, "sha256 {hex}"),
            Self::Git(hex) => write!(f, "git sha1 {hex}"),
        }
    }
}

/// A hash being computed.
#[derive(Clone, Debug)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    Git(Sha1),
}

impl Hasher {
    /// Takes more bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Git(hasher) => hasher.update(bytes),
        }
    }

    /// The hash.
    pub(crate) fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher) => Digest::Sha256(hex(&hasher.finalize())),
            Self::Git(hasher) => Digest::Git(hex(&hasher.finalize())),
        }
    }
}

/// Hashes what is left of `reader`; the number of bytes.
pub(crate) fn copy(
    reader: &mut impl Read,
    hasher: &mut Hasher,
    seen: &mut dyn FnMut(u64),
) -> io::Result<u64> {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut total = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                total += count as u64;
                seen(count as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

/// 256 KiB: the cost of a call is lost in it, and it stays in the cache.
pub(crate) const PIECE_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_sha256sum_and_git() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "hello\n").unwrap();
        // sha256sum, and git hash-object.
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        for hex in [sha256, git] {
            let expected = Digest::parse(hex).unwrap();
            let mut seen = 0;
            let found = expected.of_file(&path, |bytes| seen += bytes).unwrap();
            assert_eq!((found, seen), (expected, 6));
        }
        assert_eq!(Digest::parse("5891"), None);
        assert_eq!(Digest::parse(&sha256.to_uppercase()), None);
    }
}

//! API keys: who may do what, for whom. Only hashes of keys are kept.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};

use super::keys_file;
use super::live::{LoadError, Source};
use super::tenants::{Quota, Tenant, Tenants};
use crate::clock::EdgeClock;

/// Keys at once; each call is compared with all of them.
pub(super) const KEYS_MAX: usize = 1024;

/// The SHA-256 of a key. The key itself is nowhere.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The hash of a key.
    pub fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }

    /// A hash as 64 hexadecimal digits.
    pub fn from_hex(digits: &str) -> Option<Self> {
        let digits = digits.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            *byte = (high << 4 | low) as u8;
        }
        Some(Self(hash))
    }
}

impl fmt::Debug for KeyHash {
    /// Tells nothing: a short key could be found by its hash.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash")
    }
}

/// What a key is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Calls that cost compute.
    Work,
    /// Calls that steer the server.
    Admin,
    /// Calls in the name of other tenants.
    Tenants,
}

/// One key, before its tenant is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) hash: KeyHash,
    pub(super) name: String,
    pub(super) tenant: String,
    pub(super) rights: Vec<Right>,
}

/// One key.
#[derive(Debug)]
pub struct Key {
    hash: KeyHash,
    pub(super) name: String,
    pub(super) tenant: Arc<Tenant>,
    rights: Vec<Right>,
}

impl Key {
    /// Whether it is good for something.
    pub(super) fn has(&self, right: Right) -> bool {
        self.rights.contains(&right)
    }
}

/// All keys there are at one time.
#[derive(Debug)]
pub struct Keys(Vec<Arc<Key>>);

impl Keys {
    /// The key that was presented. Takes as long whether and where it is found: all are compared,
    /// by their hashes, and none is copied out before the last.
    pub(super) fn find(&self, presented: &[u8]) -> Option<&Arc<Key>> {
        let hash = KeyHash::of(presented);
        let mut found = u32::MAX;
        for (index, key) in (0..).zip(&self.0) {
            found.conditional_assign(&index, key.hash.0.ct_eq(&hash.0));
        }
        self.0.get(found as usize)
    }
}

/// Where keys come from.
#[derive(Debug)]
pub struct KeySource {
    given: Vec<KeyHash>,
    file: Option<PathBuf>,
    /// What a tenant may use that the file does not list.
    default_quota: Quota,
    pub(super) tenants: Tenants,
    pub(super) clock: EdgeClock,
}

impl KeySource {
    /// Keys given one by one, each for a tenant of its own that may work, and those of a file.
    pub fn new(given: Vec<KeyHash>, file: Option<PathBuf>, clock: EdgeClock) -> Self {
        Self {
            given,
            file,
            default_quota: Quota::default(),
            tenants: Tenants::default(),
            clock,
        }
    }

    /// The same keys, where a tenant that the file does not list may use this.
    #[must_use]
    pub fn with_default_quota(self, default_quota: Quota) -> Self {
        Self {
            default_quota,
            tenants: Tenants::new(default_quota),
            ..self
        }
    }

    fn entries(&self) -> Result<(Vec<Entry>, BTreeMap<String, Quota>), LoadError> {
        let (mut entries, mut quotas) = match &self.file {
            Some(path) => read(path)?,
            None => (Vec::new(), BTreeMap::new()),
        };
        for (number, hash) in (1..).zip(&self.given) {
            let name = format!("api-key-{number}");
            entries.push(Entry {
                hash: *hash,
                tenant: name.clone(),
                name,
                rights: vec![Right::Work],
            });
        }
        for entry in &entries {
            let quota = quotas.entry(entry.tenant.clone());
            quota.or_insert(self.default_quota);
        }
        Ok((entries, quotas))
    }
}

fn read(path: &Path) -> Result<(Vec<Entry>, BTreeMap<String, Quota>), LoadError> {
    let text = std::fs::read_to_string(path).map_err(|error| LoadError::new(path, error))?;
    keys_file::parse(&text).map_err(|message| LoadError::new(path, message))
}

impl Source for KeySource {
    type Value = Keys;
    const WHAT: &'static str = "keys";

    fn files(&self) -> Vec<PathBuf> {
        self.file.iter().cloned().collect()
    }

    fn load(&self) -> Result<Keys, LoadError> {
        let (entries, quotas) = self.entries()?;
        self.tenants.renew(&quotas, self.clock.now());
        let keys = entries.into_iter().filter_map(|entry| {
            Some(Arc::new(Key {
                hash: entry.hash,
                name: entry.name,
                // Every tenant of an entry is among the quotas.
                tenant: self.tenants.get(&entry.tenant)?,
                rights: entry.rights,
            }))
        });
        Ok(Keys(keys.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(given: &[&str]) -> Keys {
        let given = given.iter().map(|key| KeyHash::of(key.as_bytes()));
        KeySource::new(given.collect(), None, EdgeClock::default())
            .load()
            .unwrap()
    }

    #[test]
    fn a_key_is_found_whole_or_not_at_all() {
        let keys = keys(&["first-key", "second-key"]);
        for (presented, name) in [
            ("first-key", Some("api-key-1")),
            ("second-key", Some("api-key-2")),
            ("", None),
            ("first-ke", None),
            ("first-keyy", None),
            ("First-Key", None),
            ("first-key\0", None),
            ("FIRST-KEY", None),
        ] {
            let found = keys.find(presented.as_bytes());
            assert_eq!(found.map(|key| key.name.as_str()), name, "{presented:?}");
        }
        assert!(Keys(Vec::new()).find(b"first-key").is_none());
    }

    #[test]
    fn a_hash_is_what_sha256sum_prints() {
        let empty = "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855";
        assert_eq!(KeyHash::from_hex(empty), Some(KeyHash::of(b"")));
        assert_eq!(
            KeyHash::from_hex(&empty.to_lowercase()),
            Some(KeyHash::of(b""))
        );
        for bad in [
            "",
            "e3b0",
            &"g".repeat(64),
            &"é".repeat(32),
            &"0".repeat(65),
        ] {
            assert_eq!(KeyHash::from_hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn neither_a_key_nor_its_hash_is_ever_shown() {
        let source = KeySource::new(vec![KeyHash::of(b"canary-key")], None, EdgeClock::default());
        let shown = format!("{source:?} {:?}", source.load().unwrap());
        assert!(shown.contains("KeyHash"), "{shown}");
        let hash = format!("{:?}", KeyHash::of(b"canary-key").0);
        assert!(
            !shown.contains("canary") && !shown.contains(&hash),
            "{shown}"
        );
    }
}

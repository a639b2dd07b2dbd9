//! The hash that the prefix cache trusts: SHA-256, truncated to 128 bits.
//!
//! Cryptographic on purpose: a collision would show one tenant's KV to another. Hashing a
//! 1,024-token prompt costs about 14 us with SHA instructions.

use scheduler::hash::{BlockHash, BlockHasher};
use scheduler::request::Token;
use sha2::{Digest, Sha256};

use crate::config::Identity;

/// Chains blocks by SHA-256 over the parent's hash and the tokens, both little-endian.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sha256Hasher;

impl BlockHasher for Sha256Hasher {
    fn hash(&self, parent: BlockHash, tokens: &[Token]) -> BlockHash {
        let mut hash = Sha256::new();
        hash.update(parent.0.to_le_bytes());
        let mut bytes = [0; 4 * CHUNK_TOKENS];
        for chunk in tokens.chunks(CHUNK_TOKENS) {
            for (place, token) in bytes.chunks_exact_mut(4).zip(chunk) {
                place.copy_from_slice(&token.0.to_le_bytes());
            }
            hash.update(&bytes[..4 * chunk.len()]);
        }
        truncated(hash)
    }
}

/// The roots of one model: the parents of first blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Roots {
    identity: BlockHash,
}

impl Roots {
    /// The roots under one identity.
    pub(crate) fn new(identity: &Identity) -> Self {
        let Identity {
            model,
            revision,
            numerics,
        } = identity;
        Self {
            identity: of_parts(BlockHash::default(), &[model, revision, numerics]),
        }
    }

    /// The root of one tenant's requests with one salt.
    pub(crate) fn root(&self, tenant: &str, cache_salt: &str) -> BlockHash {
        of_parts(self.identity, &[tenant, cache_salt])
    }
}

/// Lengths go in as well, so that parts cannot run into each other.
fn of_parts(parent: BlockHash, parts: &[&str]) -> BlockHash {
    let mut hash = Sha256::new();
    hash.update(parent.0.to_le_bytes());
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    truncated(hash)
}

fn truncated(hash: Sha256) -> BlockHash {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    BlockHash(u128::from_le_bytes(bytes))
}

const CHUNK_TOKENS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(range: std::ops::Range<u32>) -> Vec<Token> {
        range.map(Token).collect()
    }

    #[test]
    fn a_block_hash_is_sha256_of_parent_and_tokens() {
        // Python: hashlib.sha256(bytes(16) + bytes([1, 0, 0, 0, 2, 0, 0, 0])).digest()[:16].
        let hash = Sha256Hasher.hash(BlockHash(0), &[Token(1), Token(2)]);
        let first_bytes = hash.0.to_le_bytes();
        assert_eq!(first_bytes, EXPECTED);
    }

    const EXPECTED: [u8; 16] = [
        195, 245, 170, 223, 142, 207, 205, 247, 230, 202, 174, 172, 38, 38, 33, 154,
    ];

    #[test]
    fn chunks_do_not_show() {
        let long = tokens(0..40);
        let mut bytes = 7_u128.to_le_bytes().to_vec();
        bytes.extend(long.iter().flat_map(|t| t.0.to_le_bytes()));
        let whole = truncated(Sha256::new_with_prefix(&bytes));
        assert_eq!(Sha256Hasher.hash(BlockHash(7), &long), whole);
    }

    #[test]
    fn every_part_changes_the_root() {
        let identity = |model: &str, revision: &str, numerics: &str| Identity {
            model: model.to_owned(),
            revision: revision.to_owned(),
            numerics: numerics.to_owned(),
        };
        let mut roots = vec![
            Roots::new(&identity("m", "r", "n")).root("t", "s"),
            Roots::new(&identity("mr", "", "n")).root("t", "s"),
            Roots::new(&identity("m", "rn", "")).root("t", "s"),
            Roots::new(&identity("m", "r", "n")).root("ts", ""),
            Roots::new(&identity("m", "r", "n")).root("", "ts"),
            Roots::new(&identity("m", "r", "n")).root("t", ""),
        ];
        roots.sort_unstable();
        roots.dedup();
        assert_eq!(roots.len(), 6);
    }
}

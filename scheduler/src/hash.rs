//! The seam through which the prefix cache gets its hash function, and the hash of tables of ids.

use std::hash::Hasher;

use crate::request::Token;

/// The chained identity of a full block: its tokens and everything before them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockHash(pub u128);

/// Hashes a block. The engine hands in SHA-256; tests hand in deliberately weak ones.
pub trait BlockHasher: Send {
    /// The hash of `tokens` (one full block) after `parent`.
    fn hash(&self, parent: BlockHash, tokens: &[Token]) -> BlockHash;
}

/// Scatters request ids over a hash table, the same way in every run. They are given out by the
/// engine, so nobody can choose them to collide.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scatter(u64);

impl Hasher for Scatter {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

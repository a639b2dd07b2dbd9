//! The seam through which the prefix cache gets its hash function.

use crate::request::Token;

/// The chained identity of a full block: its tokens and everything before them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockHash(pub u128);

/// Hashes a block. The engine hands in SHA-256; tests hand in deliberately weak ones.
pub trait BlockHasher: Send {
    /// The hash of `tokens` (one full block) after `parent`.
    fn hash(&self, parent: BlockHash, tokens: &[Token]) -> BlockHash;
}

//! What the prefix cache can find, told as changes: a router that hears all of them knows which
//! prefixes are here.

use crate::hash::BlockHash;
use crate::request::Token;

/// One change of the prefix cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheChange {
    /// A full, computed block can be found from now on. Its tokens are the next ones in
    /// [`CacheChanges::tokens`].
    Stored {
        /// The chained hash of the block.
        hash: BlockHash,
        /// The hash of the block before it; `None` at the start of a text.
        parent: Option<BlockHash>,
    },
    /// A block can be found no longer.
    Removed {
        /// Its hash.
        hash: BlockHash,
    },
}

/// Changes in the order in which they happened. Flat, and reused from step to step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheChanges {
    /// The changes.
    pub changes: Vec<CacheChange>,
    /// The tokens of all stored blocks, one block behind the other.
    pub tokens: Vec<Token>,
}

impl CacheChanges {
    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Forgets the changes and keeps the memory.
    pub fn clear(&mut self) {
        self.changes.clear();
        self.tokens.clear();
    }
}

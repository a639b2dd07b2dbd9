//! The prefix cache as somebody outside knows it, who hears of its changes alone (P12).

use std::collections::BTreeMap;

use scheduler::cache::{CacheChange, CacheChanges};
use scheduler::hash::{BlockHash, BlockHasher};
use scheduler::request::Token;

use crate::workload::BitsHasher;

/// How many blocks stand under each hash: weak hashers give one to several texts.
#[derive(Debug)]
pub(crate) struct Index {
    hasher: BitsHasher,
    block_tokens: usize,
    blocks: BTreeMap<BlockHash, u32>,
}

impl Index {
    pub(crate) fn new(hasher: BitsHasher, block_tokens: u32) -> Self {
        Self {
            hasher,
            block_tokens: block_tokens as usize,
            blocks: BTreeMap::new(),
        }
    }

    /// Takes in what changed.
    pub(crate) fn follow(&mut self, changes: &CacheChanges) {
        let mut tokens = changes.tokens.chunks(self.block_tokens);
        for &change in &changes.changes {
            match change {
                CacheChange::Stored { hash, parent } => {
                    let tokens = tokens.next().unwrap();
                    self.is_chained(hash, parent, tokens);
                    *self.blocks.entry(hash).or_default() += 1;
                }
                CacheChange::Removed { hash } => {
                    let count = self.blocks.get_mut(&hash).unwrap();
                    *count -= 1;
                    if *count == 0 {
                        self.blocks.remove(&hash);
                    }
                }
            }
        }
        assert!(tokens.next().is_none(), "tokens of no block");
    }

    /// A block's hash follows from its parent's and its tokens. At the start of a text the parent is
    /// the root, which is not told: worlds have two.
    fn is_chained(&self, hash: BlockHash, parent: Option<BlockHash>, tokens: &[Token]) {
        let parents = match parent {
            Some(parent) => vec![parent],
            None => vec![BlockHash(0), BlockHash(1)],
        };
        let fits = |&parent: &BlockHash| self.hasher.hash(parent, tokens) == hash;
        assert!(parents.iter().any(fits), "{hash:?} is not that of its text");
    }

    /// Whether the cache finds exactly what the changes told of.
    pub(crate) fn agrees(&self, hashes: impl Iterator<Item = BlockHash>) {
        let mut found = BTreeMap::new();
        for hash in hashes {
            *found.entry(hash).or_default() += 1;
        }
        assert_eq!(self.blocks, found, "the changes do not add up to the cache");
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

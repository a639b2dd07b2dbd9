//! Which blocks hold which text: the index of the prefix cache.
//!
//! The index finds a block by the hash of its text, and then compares the text itself: the tokens
//! the block holds, and the identity of everything before them. So a hash that collides costs
//! time and never a wrong answer.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::hash::BlockHash;
use crate::plan::BlockId;
use crate::request::Token;

/// The end of a bucket; block 0 is never published.
const NONE: u32 = 0;

/// Everything that stands before a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parent {
    /// Nothing: it is the first block under this root.
    Root(BlockHash),
    /// The text that ends with this content.
    Content(ContentId),
}

/// Names a text of one or more full blocks. Equal numbers mean equal texts; a number is never
/// used again, so it stays true when the block that held the text is given away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentId(u64);

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: BlockHash,
    parent: Parent,
    content: ContentId,
    /// The next block with the same hash.
    next: u32,
}

/// What identifies a full block: its hash, what stands before it and its tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    pub(crate) hash: BlockHash,
    pub(crate) parent: Parent,
    pub(crate) tokens: &'a [Token],
}

/// The index. It counts no references and frees nothing; see [`crate::kv`].
#[derive(Debug)]
pub(crate) struct PrefixIndex {
    block_tokens: usize,
    first: HashMap<BlockHash, u32, BuildHasherDefault<Fold>>,
    entries: Vec<Option<Entry>>,
    /// The tokens of every published block, `block_tokens` each.
    tokens: Vec<Token>,
    contents: u64,
}

impl PrefixIndex {
    /// An empty index over `blocks` blocks, the null block included.
    pub(crate) fn new(blocks: u32, block_tokens: u32) -> Self {
        let block_tokens = block_tokens as usize;
        Self {
            block_tokens,
            first: HashMap::default(),
            entries: vec![None; blocks as usize],
            tokens: vec![Token::default(); blocks as usize * block_tokens],
            contents: 0,
        }
    }

    /// The block that holds exactly this text.
    pub(crate) fn find(&self, key: Key<'_>) -> Option<(BlockId, ContentId)> {
        let mut index = self.first.get(&key.hash).copied().unwrap_or(NONE);
        while index != NONE {
            let entry = self.entry(index);
            if entry.parent == key.parent && self.tokens_of(index) == key.tokens {
                return Some((BlockId(index), entry.content));
            }
            index = entry.next;
        }
        None
    }

    /// Enters `block` under a text that no other block is entered under.
    pub(crate) fn insert(&mut self, block: BlockId, key: Key<'_>) -> ContentId {
        assert!(block.0 != NONE, "the null block holds nothing");
        assert!(
            key.tokens.len() == self.block_tokens,
            "only full blocks are published"
        );
        let slot = &mut self.entries[block.0 as usize];
        assert!(slot.is_none(), "block {} is published twice", block.0);
        self.contents += 1;
        let content = ContentId(self.contents);
        let next = self.first.insert(key.hash, block.0).unwrap_or(NONE);
        *slot = Some(Entry {
            hash: key.hash,
            parent: key.parent,
            content,
            next,
        });
        let start = block.0 as usize * self.block_tokens;
        self.tokens[start..start + self.block_tokens].copy_from_slice(key.tokens);
        content
    }

    /// Removes `block`.
    pub(crate) fn remove(&mut self, block: BlockId) {
        let entry = *self.entry(block.0);
        let first = self.first.get(&entry.hash).copied().unwrap_or(NONE);
        if first != block.0 {
            let mut before = first;
            while self.entry(before).next != block.0 {
                before = self.entry(before).next;
            }
            if let Some(before) = &mut self.entries[before as usize] {
                before.next = entry.next;
            }
        } else if entry.next == NONE {
            self.first.remove(&entry.hash);
        } else {
            self.first.insert(entry.hash, entry.next);
        }
        self.entries[block.0 as usize] = None;
    }

    /// Whether `block` is entered and can be found.
    pub(crate) fn holds(&self, block: BlockId) -> bool {
        let Some(entry) = &self.entries[block.0 as usize] else {
            return false;
        };
        let tokens = self.tokens_of(block.0);
        let found = self.find(Key {
            hash: entry.hash,
            parent: entry.parent,
            tokens,
        });
        assert!(
            found == Some((block, entry.content)),
            "block {} cannot be found",
            block.0
        );
        true
    }

    fn entry(&self, index: u32) -> &Entry {
        let Some(entry) = &self.entries[index as usize] else {
            unreachable!("block {index} is not published");
        };
        entry
    }

    fn tokens_of(&self, index: u32) -> &[Token] {
        let start = index as usize * self.block_tokens;
        &self.tokens[start..start + self.block_tokens]
    }
}

/// Folds a [`BlockHash`], which is uniform already, to 64 bits. Fixed, so that runs repeat.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fold(u64);

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    fn write_u128(&mut self, value: u128) {
        self.write_u64((value >> 64) as u64);
        self.write_u64(value as u64);
    }
}

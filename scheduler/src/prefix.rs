//! Which blocks hold which text: the index of the prefix cache.
//!
//! The index finds a block by the hash of its text, and then compares the text itself: the tokens
//! the block holds, and the identity of everything before them. So a hash that collides costs
//! time and never a wrong answer.
//!
//! Where no block holds the next stretch of a text whole, one may hold its beginning
//! ([`PrefixIndex::find_partial`]): a full block that goes on differently, or the last block of a
//! prompt that is only partly filled (a *tail*). Whoever needs it copies it and writes on in the
//! copy.
//!
//! It is two chained hash tables of fixed size, with one entry a block: nothing is allocated and
//! nothing grows after construction.

use crate::hash::BlockHash;
use crate::plan::BlockId;
use crate::request::Token;

/// The end of a chain; block 0 is never published.
const NONE: u32 = 0;

/// Names a text of one or more full blocks. Equal numbers mean equal texts; a number is never
/// used again, so it stays true when the block that held the text is given away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContentId(u64);

impl ContentId {
    /// The text of no block at all.
    const NOTHING: ContentId = ContentId(0);
}

/// Everything that stands before a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parent {
    root: BlockHash,
    content: ContentId,
}

impl Parent {
    /// Nothing stands before the block but the root.
    pub(crate) fn root(root: BlockHash) -> Self {
        Self {
            root,
            content: ContentId::NOTHING,
        }
    }

    /// This text stands before the block, under the same root.
    pub(crate) fn followed_by(self, content: ContentId) -> Self {
        Self {
            root: self.root,
            content,
        }
    }
}

/// What identifies a full block: its hash, what stands before it and its tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    pub(crate) hash: BlockHash,
    pub(crate) parent: Parent,
    pub(crate) tokens: &'a [Token],
}

/// One cache line a block.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Entry {
    hash: BlockHash,
    parent: Parent,
    /// [`ContentId::NOTHING`] while the block is not published.
    content: ContentId,
    /// The next block in the same chain.
    next: u32,
}

/// The index. It counts no references and frees nothing; see [`crate::kv`].
#[derive(Debug)]
pub(crate) struct PrefixIndex {
    block_tokens: usize,
    /// The first block of each chain; the hash modulo the length, a power of two, tells which.
    chains: Vec<u32>,
    entries: Vec<Entry>,
    /// What the published blocks and the tails hold, `block_tokens` each.
    tokens: Vec<Token>,
    /// The newest block, whole or tail, that stands behind a parent, by the parent's hash.
    families: Vec<u32>,
    /// The neighbours in the same family. Both ways, because a client can make a family of all blocks
    /// there are, and the oldest is the first to go.
    older: Vec<u32>,
    newer: Vec<u32>,
    /// How many tokens a tail holds; 0 for all other blocks.
    tails: Vec<u32>,
    contents: u64,
}

/// Blocks of a family that are looked at for the beginning of a text, the newest first. A bound,
/// because clients decide how many ways a text goes on.
const SIBLINGS_MAX: usize = 16;

/// Tokens of a beginning that are worth a copy. Fewer are computed again: a prompt's first token is
/// everybody's.
const PARTIAL_MIN: usize = 4;

impl PrefixIndex {
    /// An empty index over `blocks` blocks, the null block included.
    pub(crate) fn new(blocks: u32, block_tokens: u32) -> Self {
        let block_tokens = block_tokens as usize;
        let blocks = blocks as usize;
        Self {
            block_tokens,
            chains: vec![NONE; (2 * blocks).next_power_of_two()],
            entries: vec![Entry::default(); blocks],
            tokens: vec![Token::default(); blocks * block_tokens],
            families: vec![NONE; (2 * blocks).next_power_of_two()],
            older: vec![NONE; blocks],
            newer: vec![NONE; blocks],
            tails: vec![0; blocks],
            contents: 0,
        }
    }

    /// The block that holds exactly this text.
    pub(crate) fn find(&self, key: Key<'_>) -> Option<(BlockId, ContentId)> {
        let mut index = self.chains[self.chain(key.hash)];
        while index != NONE {
            let entry = &self.entries[index as usize];
            if entry.hash == key.hash
                && entry.parent == key.parent
                && self.tokens_of(index) == key.tokens
            {
                return Some((BlockId(index), entry.content));
            }
            index = entry.next;
        }
        None
    }

    /// The block that holds the longest beginning of `tokens` behind `parent`, and how many of them,
    /// as far as it is worth a copy. Only the newest few blocks are looked at.
    pub(crate) fn find_partial(&self, parent: Parent, tokens: &[Token]) -> Option<(BlockId, u32)> {
        let mut best = None;
        let mut index = self.families[self.family(parent)];
        for _ in 0..SIBLINGS_MAX {
            if index == NONE {
                break;
            }
            if self.entries[index as usize].parent == parent {
                let common = common(self.held(index), tokens);
                if common >= PARTIAL_MIN && best.is_none_or(|(_, most)| common as u32 > most) {
                    best = Some((BlockId(index), common as u32));
                }
            }
            index = self.older[index as usize];
        }
        best
    }

    /// Notes that `block`, which is being filled, holds these tokens behind `parent`. It keeps them
    /// until it is published or [`PrefixIndex::drop_tail`] is called.
    pub(crate) fn enter_tail(&mut self, block: BlockId, parent: Parent, tokens: &[Token]) {
        let index = block.0 as usize;
        assert!(
            tokens.len() < self.block_tokens && !self.is_entered(block),
            "a tail is not full"
        );
        if tokens.len() < PARTIAL_MIN || self.tails[index] > 0 {
            return;
        }
        self.tails[index] = tokens.len() as u32;
        self.entries[index].parent = parent;
        let start = index * self.block_tokens;
        self.tokens[start..start + tokens.len()].copy_from_slice(tokens);
        self.join_family(block);
    }

    /// Forgets that `block` is a tail, if it is one.
    pub(crate) fn drop_tail(&mut self, block: BlockId) {
        if std::mem::take(&mut self.tails[block.0 as usize]) > 0 {
            self.leave_family(block);
            self.entries[block.0 as usize].parent = Parent::default();
        }
    }

    /// Whether `block` is a tail; then its family must know it.
    pub(crate) fn is_tail(&self, block: BlockId) -> bool {
        let is_tail = self.tails[block.0 as usize] > 0;
        assert!(
            !is_tail || self.is_in_family(block),
            "block {} has no family",
            block.0
        );
        is_tail
    }

    /// Enters `block` under its text, unless another block stands under that text already.
    /// Returns the text's number and whether `block` was entered.
    pub(crate) fn insert(&mut self, block: BlockId, key: Key<'_>) -> (ContentId, bool) {
        assert!(block.0 != NONE, "the null block holds nothing");
        assert!(
            key.tokens.len() == self.block_tokens,
            "only full blocks are published"
        );
        self.drop_tail(block);
        if let Some((_, content)) = self.find(key) {
            return (content, false);
        }
        assert!(
            !self.is_entered(block),
            "block {} is published twice",
            block.0
        );
        self.contents += 1;
        let content = ContentId(self.contents);
        let chain = self.chain(key.hash);
        let next = std::mem::replace(&mut self.chains[chain], block.0);
        let Key {
            hash,
            parent,
            tokens,
        } = key;
        self.entries[block.0 as usize] = Entry {
            hash,
            parent,
            content,
            next,
        };
        let start = block.0 as usize * self.block_tokens;
        self.tokens[start..start + self.block_tokens].copy_from_slice(tokens);
        self.join_family(block);
        (content, true)
    }

    /// Removes `block`; returns the hash under which it stood.
    pub(crate) fn remove(&mut self, block: BlockId) -> BlockHash {
        assert!(self.is_entered(block), "block {} is not published", block.0);
        self.leave_family(block);
        let Entry { hash, next, .. } = std::mem::take(&mut self.entries[block.0 as usize]);
        let chain = self.chain(hash);
        let mut at = self.chains[chain];
        if at == block.0 {
            self.chains[chain] = next;
            return hash;
        }
        while self.entries[at as usize].next != block.0 {
            at = self.entries[at as usize].next;
            assert!(at != NONE, "block {} is in no chain", block.0);
        }
        self.entries[at as usize].next = next;
        hash
    }

    /// The hashes of all published blocks, in no order.
    pub(crate) fn hashes(&self) -> impl Iterator<Item = BlockHash> {
        let published = self
            .entries
            .iter()
            .filter(|entry| entry.content != ContentId::NOTHING);
        published.map(|entry| entry.hash)
    }

    /// Whether `block` is entered; then it must be found, too.
    pub(crate) fn holds(&self, block: BlockId) -> bool {
        if !self.is_entered(block) {
            return false;
        }
        let Entry {
            hash,
            parent,
            content,
            ..
        } = self.entries[block.0 as usize];
        let found = self.find(Key {
            hash,
            parent,
            tokens: self.tokens_of(block.0),
        });
        assert!(
            found == Some((block, content)),
            "block {} cannot be found",
            block.0
        );
        assert!(self.is_in_family(block), "block {} has no family", block.0);
        true
    }

    fn is_entered(&self, block: BlockId) -> bool {
        self.entries[block.0 as usize].content != ContentId::NOTHING
    }

    /// Puts a block at the young end of its parent's family.
    fn join_family(&mut self, block: BlockId) {
        let family = self.family(self.entries[block.0 as usize].parent);
        let older = std::mem::replace(&mut self.families[family], block.0);
        self.older[block.0 as usize] = older;
        if older != NONE {
            self.newer[older as usize] = block.0;
        }
    }

    fn leave_family(&mut self, block: BlockId) {
        assert!(self.is_in_family(block), "block {} has no family", block.0);
        let family = self.family(self.entries[block.0 as usize].parent);
        let older = std::mem::replace(&mut self.older[block.0 as usize], NONE);
        let newer = std::mem::replace(&mut self.newer[block.0 as usize], NONE);
        if newer == NONE {
            self.families[family] = older;
        } else {
            self.older[newer as usize] = older;
        }
        if older != NONE {
            self.newer[older as usize] = newer;
        }
    }

    /// Whether both neighbours know a block, or the family if it is its newest.
    fn is_in_family(&self, block: BlockId) -> bool {
        let family = self.family(self.entries[block.0 as usize].parent);
        let (older, newer) = (self.older[block.0 as usize], self.newer[block.0 as usize]);
        let newest = match newer {
            NONE => self.families[family],
            newer => self.older[newer as usize],
        };
        newest == block.0 && (older == NONE || self.newer[older as usize] == block.0)
    }

    fn family(&self, parent: Parent) -> usize {
        let mixed = (parent.root.0 as u64 ^ parent.content.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as usize & (self.families.len() - 1)
    }

    /// The tokens a block of a family holds.
    fn held(&self, index: u32) -> &[Token] {
        match self.tails[index as usize] {
            0 => self.tokens_of(index),
            tail => &self.tokens_of(index)[..tail as usize],
        }
    }

    fn chain(&self, hash: BlockHash) -> usize {
        hash.0 as usize & (self.chains.len() - 1)
    }

    fn tokens_of(&self, index: u32) -> &[Token] {
        let start = index as usize * self.block_tokens;
        &self.tokens[start..start + self.block_tokens]
    }
}

/// How many tokens two texts begin with in common.
fn common(one: &[Token], other: &[Token]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

//! The KV memory as the policy sees it: the block pool and the prefix index, kept in step.

use crate::blocks::BlockPool;
use crate::cache::{CacheChange, CacheChanges};
use crate::hash::BlockHash;
use crate::limits::Pool;
use crate::plan::BlockId;
use crate::prefix::{ContentId, Key, Parent, PrefixIndex};
use crate::request::Token;

/// Blocks with their contents.
#[derive(Debug)]
pub(crate) struct Kv {
    pool: BlockPool,
    index: PrefixIndex,
    block_tokens: u32,
    evictions: u64,
    /// What changed since it was last asked; `None` while nobody wants to know.
    changes: Option<CacheChanges>,
}

impl Kv {
    /// An empty memory.
    pub(crate) fn new(pool: Pool) -> Self {
        let block_tokens = pool.block_tokens.get();
        Self {
            pool: BlockPool::new(pool.blocks),
            index: PrefixIndex::new(pool.blocks, block_tokens),
            block_tokens,
            evictions: 0,
            changes: None,
        }
    }

    /// Tokens a block holds.
    pub(crate) fn block_tokens(&self) -> u32 {
        self.block_tokens
    }

    /// How many blocks `tokens` tokens need.
    pub(crate) fn blocks_for(&self, tokens: u32) -> u32 {
        tokens.div_ceil(self.block_tokens)
    }

    /// The counts behind it.
    pub(crate) fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// Cached blocks given to somebody else so far.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Takes a block for writing.
    pub(crate) fn take(&mut self) -> Option<BlockId> {
        let taken = self.pool.take()?;
        if taken.evicted {
            self.remove(taken.block);
            self.evictions += 1;
        }
        Some(taken.block)
    }

    /// The block that holds exactly this text.
    pub(crate) fn find(&self, key: Key<'_>) -> Option<(BlockId, ContentId)> {
        self.index.find(key)
    }

    /// The block that holds the longest beginning of `tokens` behind `parent`, if it is worth a copy.
    pub(crate) fn find_partial(&self, parent: Parent, tokens: &[Token]) -> Option<(BlockId, u32)> {
        self.index.find_partial(parent, tokens)
    }

    /// Lets others copy the beginning of a block that one sequence is filling.
    pub(crate) fn lend_tail(&mut self, block: BlockId, parent: Parent, tokens: &[Token]) {
        self.index.enter_tail(block, parent, tokens);
    }

    /// One more table names `block`.
    pub(crate) fn share(&mut self, block: BlockId) {
        self.pool.share(block);
    }

    /// Makes a full, computed block findable. When another block holds the same text already,
    /// that one stays the findable one. `before` is the hash of the block before it, if there is one.
    pub(crate) fn publish(
        &mut self,
        block: BlockId,
        key: Key<'_>,
        before: Option<BlockHash>,
    ) -> ContentId {
        let (content, entered) = self.index.insert(block, key);
        if entered {
            self.pool.keep(block);
            if let Some(changes) = &mut self.changes {
                let (hash, parent) = (key.hash, before);
                changes.changes.push(CacheChange::Stored { hash, parent });
                changes.tokens.extend_from_slice(key.tokens);
            }
        }
        content
    }

    /// Makes `block` no longer findable, if it was: what it holds is not to be trusted.
    pub(crate) fn distrust(&mut self, block: BlockId) {
        self.index.drop_tail(block);
        if self.pool.is_known(block) {
            self.remove(block);
            self.pool.forget(block);
        }
    }

    /// Releases a table, the last block first, so that a shared beginning outlives its ends.
    pub(crate) fn release(&mut self, table: &[BlockId]) {
        for &block in table.iter().rev() {
            self.index.drop_tail(block);
            self.pool.release(block);
        }
    }

    /// Frees every cached block; returns how many.
    pub(crate) fn flush(&mut self) -> u32 {
        let mut flushed = 0;
        while let Some(block) = self.pool.oldest() {
            self.remove(block);
            self.pool.forget(block);
            flushed += 1;
        }
        flushed
    }

    /// From now on changes of what can be found are noted.
    pub(crate) fn watch(&mut self) {
        self.changes.get_or_insert_default();
    }

    /// Exchanges the changes noted so far for an empty list.
    pub(crate) fn take_changes(&mut self, into: &mut CacheChanges) {
        into.clear();
        if let Some(changes) = &mut self.changes {
            std::mem::swap(changes, into);
        }
    }

    /// Takes a block out of the index.
    fn remove(&mut self, block: BlockId) {
        let hash = self.index.remove(block);
        if let Some(changes) = &mut self.changes {
            changes.changes.push(CacheChange::Removed { hash });
        }
    }

    /// The hashes of all blocks that can be found, in no order.
    pub(crate) fn hashes(&self) -> impl Iterator<Item = BlockHash> {
        self.index.hashes()
    }

    /// Checks all counts and lists against `refs`, the number of tables that name each block.
    pub(crate) fn check(&self, refs: &[u32]) {
        self.pool.check(refs);
        for index in 0..refs.len() as u32 {
            let block = BlockId(index);
            let held = self.index.holds(block);
            assert!(
                held == self.pool.is_known(block),
                "block {index} is half published"
            );
            assert!(
                !self.index.is_tail(block) || (refs[index as usize] == 1 && !held),
                "block {index} is lent by nobody"
            );
        }
    }
}

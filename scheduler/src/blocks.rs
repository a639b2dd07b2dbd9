//! Reference counts of the KV blocks: which are free, which are in use, which are only cached.
//!
//! A block is in exactly one of three states:
//! - *free*: nobody names it and it holds nothing of worth;
//! - *active*: at least one table names it;
//! - *cached*: nobody names it, but the prefix cache knows what it holds. Cached blocks are given
//!   away when no free one is left, the least recently used first.
//!
//! The pool does not know what a block holds; [`crate::prefix`] does.

use crate::plan::BlockId;

/// The end of the list of cached blocks; block 0 is never in it.
const NONE: u32 = 0;

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// How many tables name it.
    refs: u32,
    /// Whether the prefix cache knows it.
    known: bool,
    /// Neighbours in the list of cached blocks, while it is in there.
    older: u32,
    newer: u32,
}

/// A block given out by [`BlockPool::take`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Which; its reference count is 1.
    pub(crate) block: BlockId,
    /// Whether the prefix cache knew it and must forget it now.
    pub(crate) evicted: bool,
}

/// The blocks of one KV pool. Every operation is O(1) and allocates nothing.
#[derive(Debug)]
pub(crate) struct BlockPool {
    blocks: Vec<Block>,
    /// Free blocks, the next one to give at the end.
    free: Vec<u32>,
    oldest: u32,
    newest: u32,
    cached: u32,
}

impl BlockPool {
    /// A pool of `blocks` blocks, the null block included, all free.
    pub(crate) fn new(blocks: u32) -> Self {
        assert!(blocks >= 2, "a pool needs a block besides the null block");
        Self {
            blocks: vec![Block::default(); blocks as usize],
            free: (1..blocks).rev().collect(),
            oldest: NONE,
            newest: NONE,
            cached: 0,
        }
    }

    /// Blocks in all, without the null block.
    pub(crate) fn total(&self) -> u32 {
        self.blocks.len() as u32 - 1
    }

    /// Blocks that hold nothing.
    pub(crate) fn free(&self) -> u32 {
        self.free.len() as u32
    }

    /// Blocks that nobody names and the prefix cache knows.
    pub(crate) fn cached(&self) -> u32 {
        self.cached
    }

    /// Blocks that can be taken now.
    pub(crate) fn available(&self) -> u32 {
        self.free() + self.cached
    }

    /// How many tables name `block`.
    pub(crate) fn refs(&self, block: BlockId) -> u32 {
        self.blocks[block.0 as usize].refs
    }

    /// Gives out a block: a free one, else the least recently used cached one.
    pub(crate) fn take(&mut self) -> Option<Taken> {
        let (index, evicted) = match self.free.pop() {
            Some(index) => (index, false),
            None if self.oldest != NONE => {
                let index = self.oldest;
                self.unlink(index);
                (index, true)
            }
            None => return None,
        };
        let block = &mut self.blocks[index as usize];
        assert!(block.refs == 0, "block {index} given out while in use");
        assert!(block.known == evicted, "block {index} is in the wrong list");
        block.refs = 1;
        block.known = false;
        Some(Taken {
            block: BlockId(index),
            evicted,
        })
    }

    /// One more table names `block`, which the prefix cache knows.
    pub(crate) fn share(&mut self, block: BlockId) {
        let index = block.0;
        assert!(
            self.blocks[index as usize].known,
            "block {index} shared but not published"
        );
        if self.blocks[index as usize].refs == 0 {
            self.unlink(index);
        }
        self.blocks[index as usize].refs += 1;
    }

    /// One table less names `block`. The last one makes it cached or free.
    pub(crate) fn release(&mut self, block: BlockId) {
        let index = block.0;
        let state = &mut self.blocks[index as usize];
        assert!(state.refs > 0, "block {index} released twice");
        state.refs -= 1;
        if state.refs > 0 {
            return;
        }
        if state.known {
            self.link(index);
        } else {
            self.free.push(index);
        }
    }

    /// The prefix cache knows `block` from now on.
    pub(crate) fn keep(&mut self, block: BlockId) {
        let state = &mut self.blocks[block.0 as usize];
        assert!(state.refs > 0, "block {} published by nobody", block.0);
        assert!(!state.known, "block {} published twice", block.0);
        state.known = true;
    }

    /// The prefix cache no longer knows `block`.
    pub(crate) fn forget(&mut self, block: BlockId) {
        let index = block.0;
        assert!(
            self.blocks[index as usize].known,
            "block {index} forgotten twice"
        );
        if self.blocks[index as usize].refs == 0 {
            self.unlink(index);
            self.free.push(index);
        }
        self.blocks[index as usize].known = false;
    }

    /// Whether the prefix cache knows `block`.
    pub(crate) fn is_known(&self, block: BlockId) -> bool {
        self.blocks[block.0 as usize].known
    }

    /// The cached block that is given away next.
    pub(crate) fn oldest(&self) -> Option<BlockId> {
        (self.oldest != NONE).then_some(BlockId(self.oldest))
    }

    /// Checks every count and list against `refs`, the number of tables that name each block.
    pub(crate) fn check(&self, refs: &[u32]) {
        assert_eq!(refs.len(), self.blocks.len());
        assert!(
            refs[0] == 0 && self.blocks[0].refs == 0,
            "a table names the null block"
        );
        let mut idle = vec![false; self.blocks.len()];
        for &index in &self.free {
            assert!(index != 0, "the null block is free");
            assert!(!idle[index as usize], "block {index} is free twice");
            assert!(
                !self.blocks[index as usize].known,
                "block {index} is free and published"
            );
            idle[index as usize] = true;
        }
        let (mut index, mut before, mut cached) = (self.oldest, NONE, 0);
        while index != NONE {
            let block = &self.blocks[index as usize];
            assert!(
                block.older == before,
                "block {index} is linked to the wrong neighbour"
            );
            assert!(
                !idle[index as usize],
                "block {index} is cached twice, or free and cached"
            );
            assert!(block.known, "block {index} is cached and unknown");
            idle[index as usize] = true;
            cached += 1;
            (before, index) = (index, block.newer);
        }
        assert!(
            before == self.newest && cached == self.cached,
            "the cached list is broken"
        );
        for (index, block) in self.blocks.iter().enumerate().skip(1) {
            assert_eq!(
                block.refs, refs[index],
                "block {index} has a wrong reference count"
            );
            assert_eq!(
                block.refs == 0,
                idle[index],
                "block {index} is leaked or in use and idle"
            );
        }
    }

    /// Puts a block at the young end of the cached list.
    fn link(&mut self, index: u32) {
        let before = self.newest;
        self.blocks[index as usize].older = before;
        self.blocks[index as usize].newer = NONE;
        if before == NONE {
            self.oldest = index;
        } else {
            self.blocks[before as usize].newer = index;
        }
        self.newest = index;
        self.cached += 1;
    }

    /// Takes a block out of the cached list.
    fn unlink(&mut self, index: u32) {
        let Block { older, newer, .. } = self.blocks[index as usize];
        if older == NONE {
            assert!(self.oldest == index, "block {index} is not cached");
            self.oldest = newer;
        } else {
            self.blocks[older as usize].newer = newer;
        }
        if newer == NONE {
            assert!(self.newest == index, "block {index} is not cached");
            self.newest = older;
        } else {
            self.blocks[newer as usize].older = older;
        }
        self.cached -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const BLOCKS: u32 = 7;

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Take,
        Share(usize),
        Release(usize),
        Keep(usize),
        Forget(usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => Just(Op::Take),
            2 => any::<usize>().prop_map(Op::Share),
            3 => any::<usize>().prop_map(Op::Release),
            2 => any::<usize>().prop_map(Op::Keep),
            1 => any::<usize>().prop_map(Op::Forget),
        ]
    }

    /// The same pool, slow and obvious.
    #[derive(Default)]
    struct Model {
        /// One entry for each time a table names a block.
        held: Vec<BlockId>,
        known: Vec<BlockId>,
        /// Cached blocks, the oldest first.
        cached: VecDeque<BlockId>,
    }

    impl Model {
        fn refs(&self) -> Vec<u32> {
            let count = |index| self.held.iter().filter(|block| block.0 == index).count() as u32;
            (0..BLOCKS).map(count).collect()
        }

        fn apply(&mut self, pool: &mut BlockPool, op: Op) {
            let pick = |from: &[BlockId], at: usize| from.get(at % from.len().max(1)).copied();
            match op {
                Op::Take => self.take(pool),
                Op::Share(at) => {
                    let Some(block) = pick(&self.known, at) else {
                        return;
                    };
                    pool.share(block);
                    self.cached.retain(|&other| other != block);
                    self.held.push(block);
                }
                Op::Release(at) => {
                    if self.held.is_empty() {
                        return;
                    }
                    let block = self.held.swap_remove(at % self.held.len());
                    pool.release(block);
                    if self.known.contains(&block) && !self.held.contains(&block) {
                        self.cached.push_back(block);
                    }
                }
                Op::Keep(at) => {
                    let Some(block) = pick(&self.held, at) else {
                        return;
                    };
                    if !self.known.contains(&block) {
                        pool.keep(block);
                        self.known.push(block);
                    }
                }
                Op::Forget(at) => {
                    let Some(block) = pick(&self.known, at) else {
                        return;
                    };
                    pool.forget(block);
                    self.known.retain(|&other| other != block);
                    self.cached.retain(|&other| other != block);
                }
            }
        }

        fn take(&mut self, pool: &mut BlockPool) {
            let mut used: Vec<_> = self.held.iter().chain(&self.cached).collect();
            used.sort();
            used.dedup();
            let free = BLOCKS as usize - 1 - used.len();
            match pool.take() {
                Some(Taken {
                    block,
                    evicted: false,
                }) => {
                    assert!(free > 0 && !used.contains(&&block) && block.0 != 0);
                    self.held.push(block);
                }
                Some(Taken {
                    block,
                    evicted: true,
                }) => {
                    assert_eq!(free, 0, "a cached block was given while one was free");
                    assert_eq!(self.cached.pop_front(), Some(block), "not the oldest");
                    self.known.retain(|&other| other != block);
                    self.held.push(block);
                }
                None => assert!(free == 0 && self.cached.is_empty()),
            }
        }
    }

    proptest! {
        #[test]
        fn the_pool_does_what_the_model_does(ops in prop::collection::vec(op(), 1..200)) {
            let mut pool = BlockPool::new(BLOCKS);
            let mut model = Model::default();
            for op in ops {
                model.apply(&mut pool, op);
                pool.check(&model.refs());
                prop_assert_eq!(pool.cached() as usize, model.cached.len());
                prop_assert_eq!(pool.oldest(), model.cached.front().copied());
                for index in 1..BLOCKS {
                    let block = BlockId(index);
                    prop_assert_eq!(pool.is_known(block), model.known.contains(&block));
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "released twice")]
    fn a_block_is_not_released_twice() {
        let mut pool = BlockPool::new(2);
        let block = pool.take().unwrap().block;
        pool.release(block);
        pool.release(block);
    }
}

//! The data that crosses the border between the scheduler and whoever runs its plans.

use std::ops::Range;

use crate::request::{Finish, RequestId, Token};

/// Names one KV block. Block 0 is the null block: padding writes to it, nobody reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct BlockId(pub u32);

/// A row of the executor's per-sequence state, `0..running_max`; stable while a sequence runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct SlotId(pub u32);

/// One sequence's share of a step: compute `positions`, reading and writing KV through its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Whose positions.
    pub id: RequestId,
    /// Where the executor keeps this sequence's state.
    pub slot: SlotId,
    /// The positions to compute; everything before `positions.start` is in the KV cache.
    pub positions: Range<u32>,
    /// Where the tokens at `positions` stand in [`Plan::tokens`].
    pub tokens: Range<u32>,
    /// Where the block table, from position 0 to `positions.end`, stands in [`Plan::tables`].
    pub table: Range<u32>,
    /// Whether the last position's logits are sampled: it is the last known token.
    pub samples: bool,
}

/// A block to be copied before a step writes anything: the beginning of `from` is what `to` is to
/// begin with. What stands behind that in `from` is of no meaning and may be copied, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCopy {
    /// What to read.
    pub from: BlockId,
    /// What to write.
    pub to: BlockId,
    /// How many of its first tokens are wanted; at least one, and less than a block holds.
    pub tokens: u32,
}

/// One step. Flat arrays, reused from step to step, ready to upload.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Counts up from 1; an outcome names the step it answers.
    pub step: u64,
    /// Copies between blocks, to be made in this order before anything else. A block may be read by
    /// one copy and written by a later one.
    pub copies: Vec<BlockCopy>,
    /// The slices, decodes first.
    pub slices: Vec<Slice>,
    /// The tokens of all slices. [`Token::PENDING`] where an unfinished step samples it.
    pub tokens: Vec<Token>,
    /// The block tables of all slices.
    pub tables: Vec<BlockId>,
}

impl Clone for Plan {
    fn clone(&self) -> Self {
        let mut plan = Self::default();
        plan.clone_from(self);
        plan
    }

    /// Keeps its own memory.
    fn clone_from(&mut self, other: &Self) {
        let Self {
            step,
            copies,
            slices,
            tokens,
            tables,
        } = other;
        self.step = *step;
        self.copies.clone_from(copies);
        self.slices.clone_from(slices);
        self.tokens.clone_from(tokens);
        self.tables.clone_from(tables);
    }
}

impl Plan {
    /// Whether there is nothing to compute.
    pub fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    /// Forgets the last step and keeps the memory.
    pub fn clear(&mut self) {
        self.copies.clear();
        self.slices.clear();
        self.tokens.clear();
        self.tables.clear();
    }

    /// The tokens of one slice.
    pub fn tokens_of(&self, slice: &Slice) -> &[Token] {
        &self.tokens[slice.tokens.start as usize..slice.tokens.end as usize]
    }

    /// The block table of one slice.
    pub fn table_of(&self, slice: &Slice) -> &[BlockId] {
        &self.tables[slice.table.start as usize..slice.table.end as usize]
    }
}

/// What a sampled row gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampled {
    /// A token that continues the sequence.
    Token(Token),
    /// A token that is the sequence's last: an end-of-sequence or stop token.
    Last(Token),
    /// The row could not be computed; the sequence ends with [`Finish::Fault`].
    Fault,
}

/// The answer to one plan: one entry for each of its slices with `samples`, in plan order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The step it answers.
    pub step: u64,
    /// Whose row and what it gave.
    pub sampled: Vec<(RequestId, Sampled)>,
}

/// What the scheduler reports. Each request gets exactly one `Finished` and nothing after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The request left the queue for the first time.
    Started {
        /// Whose.
        id: RequestId,
        /// Prompt tokens found in the prefix cache.
        cached_tokens: u32,
    },
    /// It gave its blocks back and waits to go on.
    Preempted {
        /// Whose.
        id: RequestId,
    },
    /// One more token.
    Token {
        /// Whose.
        id: RequestId,
        /// Which.
        token: Token,
    },
    /// The end.
    Finished {
        /// Whose.
        id: RequestId,
        /// Why.
        finish: Finish,
    },
}

/// A look at the scheduler, for metrics. Counters count from construction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests waiting.
    pub waiting: u32,
    /// Sequences holding blocks.
    pub running: u32,
    /// Blocks that hold nothing.
    pub blocks_free: u32,
    /// Blocks some table names.
    pub blocks_active: u32,
    /// Blocks nobody names, kept for the prefix cache.
    pub blocks_cached: u32,
    /// Blocks in all, without the null block.
    pub blocks_total: u32,
    /// Prompt tokens looked up in the prefix cache.
    pub prefix_queried_tokens: u64,
    /// Prompt tokens found there.
    pub prefix_hit_tokens: u64,
    /// Sequences preempted.
    pub preemptions: u64,
    /// Cached blocks given to somebody else.
    pub evictions: u64,
}

//! One request inside the scheduler, waiting or running, and the table of all of them.

use std::cmp::Reverse;
use std::hash::BuildHasherDefault;
use std::ops::Range;
use std::sync::Arc;

use crate::hash::{BlockHash, BlockHasher, Scatter};
use crate::kv::Kv;
use crate::plan::{BlockId, SlotId};
use crate::prefix::Parent;
use crate::queue::{AccountId, WaitKey};
use crate::request::{Micros, Priority, RequestId, Token};

/// The order in which running sequences are served; the greatest is preempted first.
pub(crate) type Rank = (Reverse<Priority>, u64);

/// Names a sequence in one stretch of running. Preempting or ending it makes the name stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle {
    pub(crate) index: u32,
    pub(crate) stamp: u32,
}

/// A request with everything the policy knows about it. What every step looks at stands here, in
/// two cache lines; the rest is behind `cold`.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Sequence {
    pub(crate) id: RequestId,
    /// Tells one stretch of running from the next.
    pub(crate) stamp: u32,
    /// The executor's row; `None` while it waits.
    pub(crate) slot: Option<SlotId>,
    /// Tokens whose value is known: prompt and output.
    pub(crate) known: u32,
    /// The last of them.
    pub(crate) last: Token,
    /// Tokens that steps in flight will sample.
    pub(crate) pending: u32,
    /// Positions before this one are computed or being computed by a step in flight.
    pub(crate) planned: u32,
    /// Positions before this one are computed.
    pub(crate) computed: u32,
    /// Full blocks that the prefix cache was told about.
    pub(crate) published: u32,
    /// Where the output must end: `prompt + output_max` tokens.
    pub(crate) known_max: u32,
    pub(crate) account: AccountId,
    /// The last step that names its blocks.
    pub(crate) last_step: u64,
    /// Blocks from position 0 on.
    pub(crate) table: Vec<BlockId>,
    pub(crate) output: Vec<Token>,
    pub(crate) cold: Box<Cold>,
}

const _: () = assert!(
    size_of::<Option<Sequence>>() == 128,
    "two cache lines, no more"
);

/// What only admission, publishing, preemption and the end look at.
#[derive(Debug)]
pub(crate) struct Cold {
    pub(crate) prompt: Arc<[Token]>,
    pub(crate) output_max: u32,
    pub(crate) root: BlockHash,
    /// The hash of the last published block, or the root.
    pub(crate) hash: BlockHash,
    /// What stands before the first block that is not published.
    pub(crate) parent: Parent,
    /// The hashes of its first full blocks, as far as they were asked for.
    pub(crate) hashes: Vec<BlockHash>,
    pub(crate) priority: Priority,
    pub(crate) arrival: u64,
    pub(crate) urgency: Micros,
    pub(crate) deadline: Option<Micros>,
    pub(crate) preemptions: u32,
    /// Whether it ever left the queue.
    pub(crate) started: bool,
}

impl Sequence {
    /// A waiting sequence that has put out `output` so far.
    pub(crate) fn new(id: RequestId, account: AccountId, output: Vec<Token>, cold: Cold) -> Self {
        let known = (cold.prompt.len() + output.len()) as u32;
        let last = output.last().or(cold.prompt.last()).copied();
        Self {
            id,
            stamp: 0,
            slot: None,
            known,
            last: last.unwrap_or_default(),
            pending: 0,
            planned: 0,
            computed: 0,
            published: 0,
            known_max: cold.prompt.len() as u32 + cold.output_max,
            account,
            last_step: 0,
            table: Vec::new(),
            output,
            cold: Box::new(cold),
        }
    }

    /// Its place among running sequences.
    pub(crate) fn rank(&self) -> Rank {
        (Reverse(self.cold.priority), self.cold.arrival)
    }

    /// Its place in the queue.
    pub(crate) fn wait_key(&self) -> WaitKey {
        WaitKey {
            fresh: self.cold.preemptions == 0,
            urgency: self.cold.urgency,
            arrival: self.cold.arrival,
        }
    }

    /// Positions that could be computed next.
    pub(crate) fn remaining(&self) -> u32 {
        self.known + self.pending - self.planned
    }

    /// Whether the steps in flight already bring as many tokens as it may have.
    pub(crate) fn is_full(&self) -> bool {
        self.known + self.pending >= self.known_max
    }

    /// Full blocks of its text that may be found in the prefix cache. One token is always computed,
    /// because its logits are wanted.
    pub(crate) fn findable(&self, block_tokens: u32) -> u32 {
        (self.known - 1) / block_tokens
    }

    /// Whether a block is full and computed, and the prefix cache was not told.
    pub(crate) fn has_unpublished(&self, block_tokens: u32) -> bool {
        (self.published + 1) * block_tokens <= self.computed
    }

    /// Whether the next position needs a block that the table does not have.
    pub(crate) fn needs_block(&self, block_tokens: u32) -> bool {
        self.planned >= self.table.len() as u32 * block_tokens
    }

    /// Appends the tokens at `positions` to `out`, [`Token::PENDING`] where not yet known.
    pub(crate) fn copy_tokens(&self, positions: Range<u32>, out: &mut Vec<Token>) {
        assert!(
            positions.end <= self.known + self.pending,
            "a token nobody will know"
        );
        let prompt = &self.cold.prompt;
        let (start, end) = (positions.start as usize, positions.end as usize);
        let known = end.min(self.known as usize);
        if start < prompt.len() {
            out.extend_from_slice(&prompt[start..known.min(prompt.len())]);
        }
        if known > prompt.len() {
            let start = start.max(prompt.len()) - prompt.len();
            out.extend_from_slice(&self.output[start..known - prompt.len()]);
        }
        if end > known {
            out.push(Token::PENDING);
        }
    }

    /// Looks for the beginning of full or partial block `at`, before which everything was found.
    /// One token is always computed.
    pub(crate) fn find_partial(
        &self,
        at: u32,
        kv: &Kv,
        text: &mut Vec<Token>,
    ) -> Option<(BlockId, u32)> {
        let block_tokens = kv.block_tokens();
        let start = at * block_tokens;
        let end = (start + block_tokens - 1).min(self.known - 1);
        if start >= end {
            return None;
        }
        text.clear();
        self.copy_tokens(start..end, text);
        kv.find_partial(self.cold.parent, text)
    }

    /// The hash of full block `at`, whose tokens are `tokens`, after one with the hash `before`.
    pub(crate) fn hash_at(
        &self,
        at: u32,
        tokens: &[Token],
        before: BlockHash,
        hasher: &dyn BlockHasher,
    ) -> BlockHash {
        match self.cold.hashes.get(at as usize) {
            Some(&hash) => hash,
            None => hasher.hash(before, tokens),
        }
    }

    /// The hash of full block `at`, whose text is known. It and those before it are kept.
    pub(crate) fn hash_of(
        &mut self,
        at: u32,
        block_tokens: u32,
        hasher: &dyn BlockHasher,
        text: &mut Vec<Token>,
    ) -> BlockHash {
        while self.cold.hashes.len() <= at as usize {
            let start = self.cold.hashes.len() as u32 * block_tokens;
            text.clear();
            self.copy_tokens(start..start + block_tokens, text);
            let before = self.cold.hashes.last().copied();
            let before = before.unwrap_or(self.cold.root);
            self.cold.hashes.push(hasher.hash(before, text));
        }
        self.cold.hashes[at as usize]
    }

    /// Takes one more token.
    pub(crate) fn push(&mut self, token: Token) {
        assert!(
            self.known < self.known_max,
            "{:?} got more tokens than it asked for",
            self.id
        );
        self.output.push(token);
        self.known += 1;
        self.last = token;
    }

    /// Forgets that anything is computed. The table must have been released.
    pub(crate) fn rewind(&mut self) {
        assert!(
            self.table.is_empty(),
            "{:?} rewinds with blocks in hand",
            self.id
        );
        (self.planned, self.computed, self.published) = (0, 0, 0);
        self.cold.hash = self.cold.root;
        self.cold.parent = Parent::root(self.cold.root);
    }
}

/// Hashed the same on every run, and never iterated.
#[expect(clippy::disallowed_types, reason = "its hasher is a fixed one")]
type ById = std::collections::HashMap<RequestId, u32, BuildHasherDefault<Scatter>>;

/// All sequences, by index and by request id.
#[derive(Debug, Default)]
pub(crate) struct Sequences {
    rows: Vec<Option<Sequence>>,
    free: Vec<u32>,
    by_id: ById,
    stamps: u32,
}

impl Sequences {
    /// How many there are.
    pub(crate) fn len(&self) -> u32 {
        self.by_id.len() as u32
    }

    /// Adds one and returns its index.
    pub(crate) fn insert(&mut self, mut sequence: Sequence) -> u32 {
        let id = sequence.id;
        sequence.stamp = self.next_stamp();
        let index = if let Some(index) = self.free.pop() {
            self.rows[index as usize] = Some(sequence);
            index
        } else {
            self.rows.push(Some(sequence));
            self.rows.len() as u32 - 1
        };
        let before = self.by_id.insert(id, index);
        assert!(before.is_none(), "{id:?} is submitted twice");
        index
    }

    /// Removes one.
    pub(crate) fn remove(&mut self, index: u32) -> Sequence {
        let Some(sequence) = self.rows[index as usize].take() else {
            unreachable!("sequence {index} is removed twice");
        };
        self.by_id.remove(&sequence.id);
        self.free.push(index);
        sequence
    }

    /// Makes every handle to this one stale.
    pub(crate) fn restamp(&mut self, index: u32) {
        let stamp = self.next_stamp();
        self.at_mut(index).stamp = stamp;
    }

    /// The index of a request.
    pub(crate) fn index_of(&self, id: RequestId) -> Option<u32> {
        self.by_id.get(&id).copied()
    }

    /// The sequence at an index that is known to be taken.
    pub(crate) fn at(&self, index: u32) -> &Sequence {
        let Some(sequence) = &self.rows[index as usize] else {
            unreachable!("sequence {index} is gone");
        };
        sequence
    }

    /// As [`Sequences::at`], to change.
    pub(crate) fn at_mut(&mut self, index: u32) -> &mut Sequence {
        let Some(sequence) = &mut self.rows[index as usize] else {
            unreachable!("sequence {index} is gone");
        };
        sequence
    }

    /// The sequence at an index, if it is still the same request.
    pub(crate) fn get_mut(&mut self, index: u32, id: RequestId) -> Option<&mut Sequence> {
        self.rows[index as usize]
            .as_mut()
            .filter(|sequence| sequence.id == id)
    }

    /// Whether a handle still names a running sequence.
    pub(crate) fn is_current(&self, handle: Handle) -> bool {
        self.rows[handle.index as usize]
            .as_ref()
            .is_some_and(|s| s.stamp == handle.stamp)
    }

    /// All of them, by index.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Sequence> {
        self.rows.iter().flatten()
    }

    fn next_stamp(&mut self) -> u32 {
        self.stamps = self.stamps.wrapping_add(1);
        self.stamps
    }
}

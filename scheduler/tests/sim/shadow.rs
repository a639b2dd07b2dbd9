//! An executor whose KV is the text itself: every position holds a hash of all tokens up to it.
//!
//! What a position computes depends on what is read through the block table, and the next token
//! depends on what the last position computed. So a wrong, stale or early reused block changes
//! the text, and the text of each request is known beforehand from a run of its own.

use scheduler::hash::BlockHash;
use scheduler::limits::Pool;
use scheduler::plan::{BlockId, Outcome, Plan, Sampled, SlotId};
use scheduler::request::{RequestId, Token};

/// Scrambles 64 bits.
pub(crate) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// What a position holds, from what the position before it holds.
pub(crate) fn chain(before: u64, token: Token) -> u64 {
    mix(before ^ mix(u64::from(token.0) + 1))
}

/// What stands before position 0.
pub(crate) fn origin(root: BlockHash) -> u64 {
    mix(root.0 as u64 ^ 0xabcd)
}

/// The next token after a position that holds `value`, and whether it is the last.
pub(crate) fn next(value: u64, vocabulary: u32) -> (Token, bool) {
    let word = mix(value ^ 0x7e57);
    (
        Token((word % u64::from(vocabulary)) as u32),
        (word >> 32).is_multiple_of(40),
    )
}

/// What a request gives when it is alone in the world.
#[derive(Clone, Debug)]
pub(crate) struct Solo {
    /// All tokens: prompt, then output.
    pub(crate) text: Vec<Token>,
    /// What each position holds.
    pub(crate) values: Vec<u64>,
    pub(crate) output: Vec<Token>,
    /// Whether the last token ended it, and not its bound.
    pub(crate) stops: bool,
}

impl Solo {
    pub(crate) fn run(root: BlockHash, prompt: &[Token], output_max: u32, vocabulary: u32) -> Self {
        let mut solo = Solo {
            text: Vec::new(),
            values: Vec::new(),
            output: Vec::new(),
            stops: false,
        };
        let mut value = origin(root);
        for &token in prompt {
            value = solo.push(value, token);
        }
        while !solo.stops && solo.output.len() < output_max as usize {
            let (token, last) = next(value, vocabulary);
            solo.output.push(token);
            solo.stops = last;
            value = solo.push(value, token);
        }
        solo
    }

    fn push(&mut self, before: u64, token: Token) -> u64 {
        let value = chain(before, token);
        self.text.push(token);
        self.values.push(value);
        value
    }
}

/// What the executor knows about a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) id: RequestId,
    pub(crate) root: BlockHash,
    pub(crate) vocabulary: u32,
    /// Whether this row comes out wrong.
    pub(crate) fault: bool,
}

/// One physical place per token, and the last sampled token per slot.
#[derive(Debug)]
pub(crate) struct Memory {
    block_tokens: u32,
    values: Vec<u64>,
    last: Vec<Token>,
}

impl Memory {
    pub(crate) fn new(pool: Pool, slots: u32) -> Self {
        let block_tokens = pool.block_tokens.get();
        Self {
            block_tokens,
            values: vec![0; (pool.blocks * block_tokens) as usize],
            last: vec![Token::PENDING; slots as usize],
        }
    }

    /// What `position` of a sequence holds.
    pub(crate) fn read(&self, table: &[BlockId], position: u32) -> u64 {
        self.values[self.place(table, position)]
    }

    /// Runs a step. `rows` has one entry a slice.
    pub(crate) fn execute(&mut self, plan: &Plan, rows: &[Row], outcome: &mut Outcome) {
        outcome.step = plan.step;
        outcome.sampled.clear();
        for copy in &plan.copies {
            let place = |block: BlockId| (block.0 * self.block_tokens) as usize;
            let (from, to) = (place(copy.from), place(copy.to));
            for at in 0..self.block_tokens as usize {
                // What nobody asked for must not matter.
                let wanted = at < copy.tokens as usize;
                self.values[to + at] = if wanted { self.values[from + at] } else { !0 };
            }
        }
        for (slice, row) in plan.slices.iter().zip(rows) {
            assert_eq!(slice.id, row.id);
            let table = plan.table_of(slice);
            for (position, &token) in slice.positions.clone().zip(plan.tokens_of(slice)) {
                let token = self.resolve(slice.slot, token);
                let before = match position {
                    0 => origin(row.root),
                    _ => self.read(table, position - 1),
                };
                let place = self.place(table, position);
                self.values[place] = chain(before, token);
            }
            if slice.samples {
                let value = self.read(table, slice.positions.end - 1);
                let (token, last) = next(value, row.vocabulary);
                self.last[slice.slot.0 as usize] = token;
                let sampled = match (row.fault, last) {
                    (true, _) => Sampled::Fault,
                    (false, true) => Sampled::Last(token),
                    (false, false) => Sampled::Token(token),
                };
                outcome.sampled.push((slice.id, sampled));
            }
            if row.fault {
                for position in slice.positions.clone() {
                    let place = self.place(table, position);
                    self.values[place] = u64::MAX;
                }
            }
        }
    }

    fn resolve(&self, slot: SlotId, token: Token) -> Token {
        if token != Token::PENDING {
            return token;
        }
        let last = self.last[slot.0 as usize];
        assert_ne!(
            last,
            Token::PENDING,
            "{slot:?} has no sampled token to go on from"
        );
        last
    }

    fn place(&self, table: &[BlockId], position: u32) -> usize {
        let block = table[(position / self.block_tokens) as usize];
        (block.0 * self.block_tokens + position % self.block_tokens) as usize
    }
}

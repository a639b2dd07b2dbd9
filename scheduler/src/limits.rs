//! The bounds of a scheduler, fixed at construction.

use std::num::NonZeroU32;

/// The KV memory an executor offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Blocks in all, the null block 0 included.
    pub blocks: u32,
    /// Tokens a block holds.
    pub block_tokens: NonZeroU32,
}

/// Everything that can grow, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Positions computed in one step, all sequences together.
    pub step_tokens_max: u32,
    /// Sequences that hold blocks at once; also the number of slots.
    pub running_max: u32,
    /// Requests that wait at once.
    pub waiting_max: u32,
    /// Prompt plus output of one sequence.
    pub sequence_tokens_max: u32,
    /// How often one sequence is preempted while there is another to preempt instead. It ends
    /// nothing: a sequence that gave way this often comes back when all it may need is there.
    pub preemptions_max: u32,
    /// Steps that may be planned before the first of them is applied: 1 or 2.
    pub depth_max: u32,
}

//! What prompts and answers consist of: tokens that are a function of a name and a position.
//!
//! Texts that share a beginning share its tokens, so the prefix cache finds them; nothing else has
//! to be kept. A conversation is one endless text, of which each turn's prompt is a longer
//! beginning.

use std::sync::Arc;

use scheduler::hash::{BlockHash, BlockHasher};
use scheduler::request::Token;

/// One text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Text {
    /// The name of what follows on the beginning.
    pub(crate) own: u64,
    /// The name of its beginning.
    pub(crate) group: u64,
    /// How long the beginning is.
    pub(crate) group_tokens: u32,
}

impl Text {
    /// The token at a position.
    #[inline]
    pub(crate) fn token(self, position: u32) -> Token {
        let name = if position < self.group_tokens {
            mix(self.group ^ 0x67_726f_7570)
        } else {
            self.own
        };
        // 31 bits: never the token that stands for a pending one.
        Token((mix(name ^ (u64::from(position) << 32 | 1)) >> 33) as u32)
    }

    /// The first tokens.
    pub(crate) fn prompt(self, tokens: u32) -> Arc<[Token]> {
        (0..tokens).map(|position| self.token(position)).collect()
    }
}

/// Scatters a number over all numbers of its size: each to one other.
#[inline]
pub(crate) fn mix(value: u64) -> u64 {
    let mut value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A quick hash of blocks. Nobody here wants it to collide, and the prefix cache compares texts
/// besides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QuickHasher;

impl BlockHasher for QuickHasher {
    fn hash(&self, parent: BlockHash, tokens: &[Token]) -> BlockHash {
        let (mut low, mut high) = (parent.0 as u64, (parent.0 >> 64) as u64);
        for pair in tokens.chunks(2) {
            let second = pair.get(1).map_or(0, |token| token.0);
            let word = u64::from(pair[0].0) << 32 | u64::from(second);
            low = (low ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            high = (high.rotate_left(23) ^ word).wrapping_mul(0xd6e8_feb8_6659_fd93);
            low ^= low >> 29;
        }
        BlockHash(u128::from(mix(low)) | u128::from(mix(high)) << 64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_share_the_beginning_of_their_group_and_nothing_else() {
        let text = |own, group, group_tokens| Text {
            own,
            group,
            group_tokens,
        };
        let (a, b) = (text(1, 7, 5).prompt(9), text(2, 7, 5).prompt(9));
        assert_eq!(a[..5], b[..5]);
        assert!((5..9).all(|at| a[at] != b[at]));
        assert_ne!(text(1, 8, 5).prompt(5), text(1, 7, 5).prompt(5));
        // The group's text is not the one of a request of the same name.
        assert_ne!(text(7, 0, 0).prompt(5)[..], a[..5]);
    }

    #[test]
    fn blocks_of_different_texts_have_different_hashes() {
        let mut seen = std::collections::BTreeSet::new();
        for own in 0..2000 {
            let text = Text {
                own: mix(own),
                group: 0,
                group_tokens: 0,
            };
            let mut parent = BlockHash(0);
            for block in text.prompt(64).chunks(16) {
                parent = QuickHasher.hash(parent, block);
                assert!(seen.insert(parent.0), "two blocks collide");
            }
        }
    }
}

//! What attention reads: queries, pages of keys and values, and who sees what.

use crate::Rows;
use crate::attend::CHUNK;
use crate::attention::DistanceBias;
use crate::pages::PageLayout;
use crate::simd::{Simd, math};
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// Where the pages of one head of one sequence are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a, T> {
    pub(crate) lanes: &'a [T],
    pub(crate) layout: PageLayout,
    pub(crate) kv_heads: usize,
    pub(crate) head: usize,
    pub(crate) order: Order<'a>,
}

/// Which page holds which positions.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order<'a> {
    /// Block numbers, and the pages of a block.
    Table {
        blocks: &'a [u32],
        block_pages: usize,
    },
    /// One after another from this page on.
    From(usize),
}

/// What a row sees, by its token's place in the sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sight {
    /// Itself and what came before, at most `window` positions; token 0 stands at `start`.
    Causal { start: usize, window: usize },
    /// Everything at most `reach` away in a sequence of `len`.
    Around { reach: usize, len: usize },
}

impl Sight {
    /// The chunks that some of `tokens` tokens sees.
    pub(crate) fn chunks(&self, tokens: usize) -> Range<usize> {
        if tokens == 0 {
            return 0..0;
        }
        self.range(0).start / CHUNK..self.range(tokens - 1).end.div_ceil(CHUNK)
    }
    /// The most positions that one of `tokens` tokens sees.
    pub(crate) fn positions(&self, tokens: usize) -> usize {
        match *self {
            Self::Causal { start, window } => window.min(start + tokens),
            Self::Around { reach, len } => len.min(reach.saturating_mul(2).saturating_add(1)),
        }
    }

    #[inline(always)]
    pub(crate) fn range(&self, token: usize) -> Range<usize> {
        match *self {
            Self::Causal { start, window } => {
                let end = start + token + 1;
                end.saturating_sub(window)..end
            }
            Self::Around { reach, len } => {
                token.saturating_sub(reach)..len.min(token.saturating_add(reach).saturating_add(1))
            }
        }
    }
}

/// How scores become weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scores<'a> {
    pub(crate) scale: f32,
    pub(crate) softcap: Option<f32>,
    pub(crate) bias: Option<&'a DistanceBias>,
}

/// Query rows of one sequence and one head of keys: row `i` is query head `i % group` of the
/// group, for token `i / group`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queries<'a> {
    pub(crate) q: Rows<'a>,
    /// Row of `q` and of the output that token 0 stands in.
    pub(crate) first: usize,
    pub(crate) group: usize,
}

impl<T> Source<'_, T> {
    /// The lanes of a page of the sequence.
    #[inline(always)]
    pub(crate) fn page(&self, page: usize) -> &[T] {
        let page = match self.order {
            Order::Table {
                blocks,
                block_pages,
            } => blocks[page / block_pages] as usize * block_pages + page % block_pages,
            Order::From(first) => first + page,
        };
        let start = (page * self.kv_heads + self.head) * self.layout.page();
        &self.lanes[start..start + self.layout.page()]
    }
}

impl Scores<'_> {
    /// Powers of two of the weights, from dot products.
    #[inline(always)]
    pub(crate) fn powers<S: Simd>(&self, simd: S, dot: S::F) -> S::F {
        match self.softcap {
            None => simd.mul(dot, simd.splat(self.scale * LOG2_E)),
            Some(cap) => {
                let bent = math::tanh(simd, simd.mul(dot, simd.splat(self.scale / cap)));
                simd.mul(bent, simd.splat(cap * LOG2_E))
            }
        }
    }
}

//! Attention over the paged cache (decoders, causal) and over packed rows (encoders).

#![expect(unsafe_code, reason = "words of scratch memory are lent as floats")]

use crate::attend::TILE;
use crate::call::{Call, Sequence};
use crate::kv::{KvCache, Pages};
use crate::pages::{PAGE, PageLayout};

use crate::source::{Order, Sight};
use crate::{Compute, Rows};
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// Keys and values are read in pages of so many tokens: a packed sequence takes whole ones.
pub const PAGE_TOKENS: usize = PAGE;

/// Heads and scaling of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads: a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a head: at most 256.
    pub head_dim: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Looking back, a row sees itself and the `window - 1` positions before it; looking around, the
    /// positions at most `window / 2` away.
    pub window: Option<u32>,
    /// Scores become `softcap * tanh(score / softcap)`.
    pub softcap: Option<f32>,
}

/// The rows of one sequence in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Which rows of the queries and of the output.
    pub rows: Range<usize>,
    /// Position of the first row.
    pub start: u32,
    /// Which entries of the tables are its blocks, from position 0 on.
    pub table: Range<usize>,
}

/// What a batch of segments attends to.
#[derive(Clone, Copy, Debug)]
pub struct PagedBatch<'a> {
    /// Keys and values, with those of the batch's own rows already written.
    pub cache: &'a KvCache,
    /// Layer of the cache.
    pub layer: usize,
    /// Sequences of the batch.
    pub segments: &'a [Segment],
    /// Block numbers of all sequences.
    pub tables: &'a [u32],
}

/// Queries, keys and values of packed sequences.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    /// Queries, rows of `heads * head_dim`.
    pub q: Rows<'a>,
    /// Keys, rows of `kv_heads * head_dim`.
    pub k: Rows<'a>,
    /// Values, rows of `kv_heads * head_dim`.
    pub v: Rows<'a>,
    /// First row of each sequence, then the number of rows.
    pub cu_lengths: &'a [u32],
    /// What is added to the scores, if anything is.
    pub bias: Option<&'a DistanceBias>,
    /// Whom a row sees of its sequence.
    pub look: Look,
}

/// Whom a row of a packed sequence sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// All, within half a window to either side.
    Around,
    /// Itself and those before it, as in a decoder.
    Back,
}

/// What is added to the scores of each head by how far the key stands behind the query.
#[derive(Debug)]
pub struct DistanceBias {
    heads: usize,
    /// The largest distance in either direction.
    reach: usize,
    /// `[heads, 2 * reach + TILE]`: distances from `-reach` to `reach`, as powers of two, and room
    /// for the end of a tile.
    powers: Vec<f32>,
}

impl DistanceBias {
    /// How many values [`Self::new`] keeps.
    pub fn values(heads: usize, reach: usize) -> usize {
        heads * (2 * reach + TILE)
    }

    /// Asks for each head and each distance from `-reach` to `reach` once.
    pub fn new(heads: usize, reach: usize, bias: impl Fn(usize, isize) -> f32) -> Self {
        let width = 2 * reach + TILE;
        let mut powers = vec![0.0; heads * width];
        for (head, row) in powers.chunks_exact_mut(width).enumerate() {
            let distances = -(reach as isize)..=reach as isize;
            for (power, distance) in row.iter_mut().zip(distances) {
                *power = bias(head, distance) * LOG2_E;
            }
        }
        Self {
            heads,
            reach,
            powers,
        }
    }

    /// What the keys of the tile that begins at `start` get from a query.
    pub(crate) fn tile(&self, head: usize, query: usize, start: usize) -> &[f32] {
        let first = head * (2 * self.reach + TILE) + start + self.reach - query;
        &self.powers[first..first + TILE]
    }
}

/// Causal attention: row `i` of a segment sees the positions up to `start + i`.
/// `out` is `[rows, heads * head_dim]`; rows of no segment are left alone. Segments stand in the
/// order of their rows.
pub fn paged_attention(
    compute: &mut Compute,
    shape: &AttentionShape,
    q: Rows<'_>,
    batch: &PagedBatch<'_>,
    out: &mut [f32],
) {
    let cache = batch.cache.shape();
    shape.check(q, out.len());
    assert_eq!(
        (shape.kv_heads, shape.head_dim),
        (cache.kv_heads, cache.head_dim),
        "cache"
    );
    let mut end = 0;
    for segment in batch.segments {
        let Segment { rows, start, table } = segment;
        assert!(
            end <= rows.start && rows.start <= rows.end && rows.end <= q.len(),
            "rows of {segment:?}"
        );
        assert!(
            table.start <= table.end && table.end <= batch.tables.len(),
            "table of {segment:?}"
        );
        let positions = *start as usize + rows.len();
        assert!(
            table.len() * cache.block_tokens >= positions,
            "blocks of {segment:?}"
        );
        end = rows.end;
    }
    let block_pages = cache.block_tokens / PAGE;
    let window = shape.window.map_or(usize::MAX, |window| window as usize);
    let sequence = |index: usize| {
        let Segment { rows, start, table } = &batch.segments[index];
        Sequence {
            rows: rows.clone(),
            sight: Sight::Causal {
                start: *start as usize,
                window,
            },
            order: Order::Table {
                blocks: &batch.tables[table.clone()],
                block_pages,
            },
        }
    };
    let call = Call {
        shape,
        q,
        bias: None,
        sequences: batch.segments.len(),
        sequence: &sequence,
    };
    match batch.cache.layer(batch.layer) {
        Pages::F32(lanes) => call.run(compute, lanes, out),
        Pages::Bf16(lanes) => call.run(compute, lanes, out),
    }
}

/// Attention inside each packed sequence. `out` is `[rows, heads * head_dim]`.
pub fn packed_attention(
    compute: &mut Compute,
    shape: &AttentionShape,
    packed: &Packed<'_>,
    out: &mut [f32],
) {
    let kv_width = shape.kv_heads * shape.head_dim;
    let Packed {
        q,
        k,
        v,
        cu_lengths,
        bias,
        look,
    } = *packed;
    shape.check(q, out.len());
    assert!(
        k.width() == kv_width && v.width() == kv_width,
        "keys and values"
    );
    assert!(
        k.len() == q.len() && v.len() == q.len(),
        "rows of q, k and v"
    );
    assert!(cu_lengths.is_sorted(), "lengths {cu_lengths:?}");
    assert!(
        cu_lengths.last().is_none_or(|&end| end as usize <= q.len()),
        "lengths {cu_lengths:?}"
    );
    let longest = cu_lengths.windows(2).map(|ends| ends[1] - ends[0]).max();
    assert!(
        bias.is_none_or(|bias| {
            bias.heads == shape.heads && bias.reach >= longest.unwrap_or(0) as usize
        }),
        "a bias for other sequences"
    );
    let sequences = cu_lengths.len().saturating_sub(1);
    let rows = |index: usize| cu_lengths[index] as usize..cu_lengths[index + 1] as usize;
    // Each sequence begins a page of its own, and fills at most one page more than its rows do.
    let page = |index: usize| cu_lengths[index] as usize / PAGE + index;
    let window = shape.window.map_or(usize::MAX, |window| window as usize);
    let sight = |len: usize| match look {
        Look::Back => Sight::Causal { start: 0, window },
        Look::Around => {
            let reach = shape
                .window
                .map_or(usize::MAX, |window| window as usize / 2);
            Sight::Around { reach, len }
        }
    };
    let sequence = |index: usize| Sequence {
        rows: rows(index),
        sight: sight(rows(index).len()),
        order: Order::From(page(index)),
    };
    let call = Call {
        shape,
        q,
        bias,
        sequences,
        sequence: &sequence,
    };
    if sequences == 0 {
        return;
    }
    let lanes = page(sequences) * shape.kv_heads * PageLayout::new::<f32>(shape.head_dim).page();
    let mut scratch = compute.take_scratch();
    // SAFETY: every bit pattern is a float.
    let (_, pages, _) = unsafe { scratch.words(lanes.div_ceil(2)).align_to_mut::<f32>() };
    call.pack(compute, (k, v), pages);
    call.run(compute, &*pages, out);
    compute.give_scratch(scratch);
}

impl AttentionShape {
    fn check(&self, q: Rows<'_>, out: usize) {
        let width = self.heads * self.head_dim;
        assert!(
            self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads),
            "{self:?}"
        );
        assert!((1..=256).contains(&self.head_dim), "{self:?}");
        assert_ne!(self.window, Some(0), "a row sees at least itself");
        assert_eq!(q.width(), width, "width of the queries");
        assert_eq!(out, q.len() * width, "elements of the output");
    }
}

//! Attention over the paged cache (decoders, causal) and over packed rows (encoders).

use crate::kv::KvCache;
use crate::{Compute, Rows};
use std::ops::Range;

/// Heads and scaling of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads: a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a head: even, at most 256.
    pub head_dim: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Causal: a row sees itself and the `window - 1` positions before it. Encoder: a row sees
    /// the positions at most `window / 2` away.
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
}

/// Causal attention: row `i` of a segment sees the positions up to `start + i`.
/// `out` is `[rows, heads * head_dim]`; rows of no segment are left alone.
pub fn paged_attention(
    _compute: &mut Compute,
    shape: &AttentionShape,
    q: Rows<'_>,
    batch: &PagedBatch<'_>,
    out: &mut [f32],
) {
    let cache = batch.cache.shape();
    let width = shape.heads * shape.head_dim;
    assert!(
        shape.heads.is_multiple_of(shape.kv_heads) && shape.head_dim <= 256,
        "{shape:?}"
    );
    assert_eq!(
        (shape.kv_heads, shape.head_dim),
        (cache.kv_heads, cache.head_dim),
        "cache"
    );
    assert!(
        q.width() == width && out.len() == q.len() * width,
        "queries and out"
    );
    for segment in batch.segments {
        let table = &batch.tables[segment.table.clone()];
        for (i, row) in segment.rows.clone().enumerate() {
            let position = segment.start as usize + i;
            let first = shape
                .window
                .map_or(0, |window| (position + 1).saturating_sub(window as usize));
            let slot = |position: usize| {
                table[position / cache.block_tokens] as usize * cache.block_tokens
                    + position % cache.block_tokens
            };
            for head in 0..shape.heads {
                let kv_head = head * shape.kv_heads / shape.heads;
                let columns = head * shape.head_dim..(head + 1) * shape.head_dim;
                attend(
                    shape,
                    &q.row(row)[columns.clone()],
                    first..position + 1,
                    |p| {
                        let slot = slot(p);
                        let key = batch.cache.key(batch.layer, slot, kv_head);
                        (key, batch.cache.value(batch.layer, slot, kv_head))
                    },
                    &mut out[row * width..(row + 1) * width][columns],
                );
            }
        }
    }
}

/// Bidirectional attention inside each packed sequence. `out` is `[rows, heads * head_dim]`.
pub fn packed_attention(
    _compute: &mut Compute,
    shape: &AttentionShape,
    packed: &Packed<'_>,
    out: &mut [f32],
) {
    let width = shape.heads * shape.head_dim;
    let kv_width = shape.kv_heads * shape.head_dim;
    let Packed {
        q,
        k,
        v,
        cu_lengths,
    } = *packed;
    assert!(
        shape.heads.is_multiple_of(shape.kv_heads) && shape.head_dim <= 256,
        "{shape:?}"
    );
    assert!(
        q.width() == width && out.len() == q.len() * width,
        "queries and out"
    );
    assert!(
        k.width() == kv_width && v.width() == kv_width,
        "keys and values"
    );
    assert!(
        k.len() == q.len() && v.len() == q.len(),
        "rows of q, k and v"
    );
    for ends in cu_lengths.windows(2) {
        let rows = ends[0] as usize..ends[1] as usize;
        for row in rows.clone() {
            let reach = shape
                .window
                .map_or(usize::MAX, |window| window as usize / 2);
            let seen = rows.start.max(row.saturating_sub(reach))
                ..rows.end.min(row.saturating_add(reach).saturating_add(1));
            for head in 0..shape.heads {
                let columns = head * shape.head_dim..(head + 1) * shape.head_dim;
                let kv_head = head * shape.kv_heads / shape.heads;
                let kv_columns = kv_head * shape.head_dim..(kv_head + 1) * shape.head_dim;
                attend(
                    shape,
                    &q.row(row)[columns.clone()],
                    seen.clone(),
                    |p| (&k.row(p)[kv_columns.clone()], &v.row(p)[kv_columns.clone()]),
                    &mut out[row * width..(row + 1) * width][columns],
                );
            }
        }
    }
}

fn attend<'a>(
    shape: &AttentionShape,
    q: &[f32],
    seen: Range<usize>,
    kv: impl Fn(usize) -> (&'a [f32], &'a [f32]),
    out: &mut [f32],
) {
    let score = |p: usize| {
        let dot: f32 = q.iter().zip(kv(p).0).map(|(q, k)| q * k).sum();
        let score = dot * shape.scale;
        shape
            .softcap
            .map_or(score, |cap| cap * (score / cap).tanh())
    };
    let scores: Vec<f32> = seen.clone().map(score).collect();
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = scores.iter().map(|score| (score - max).exp()).collect();
    let sum: f32 = weights.iter().sum();
    out.fill(0.0);
    for (p, weight) in seen.zip(weights) {
        out.iter_mut()
            .zip(kv(p).1)
            .for_each(|(out, v)| *out += weight / sum * v);
    }
}

//! Attention over the paged cache (decoders, causal) and over packed rows (encoders).

#![expect(unsafe_code, reason = "threads write to one slice")]

use crate::attend::{Attend, Order, Queries, Scores, Sight, Source, WORKSPACE, rows_of_tile};
use crate::kv::{KvCache, Pages};
use crate::pages::{PAGE, PageLane, PageLayout};
use crate::shared::SharedMut;
use crate::simd::{Kernel, Simd, vectorize};
use crate::{Compute, Rows};
use std::ops::Range;

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
            end <= rows.start && rows.end <= q.len(),
            "rows of {segment:?}"
        );
        assert!(table.end <= batch.tables.len(), "table of {segment:?}");
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
        sequences: batch.segments.len(),
        sequence: &sequence,
    };
    compute.with_scratch(call.words(), |compute, starts| {
        match batch.cache.layer(batch.layer) {
            Pages::F32(lanes) => call.run(compute, starts, lanes, out),
            Pages::Bf16(lanes) => call.run(compute, starts, lanes, out),
        }
    });
}

/// Bidirectional attention inside each packed sequence. `out` is `[rows, heads * head_dim]`.
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
    let sequences = cu_lengths.len().saturating_sub(1);
    let rows = |index: usize| cu_lengths[index] as usize..cu_lengths[index + 1] as usize;
    // Each sequence begins a page of its own, and fills at most one page more than its rows do.
    let page = |index: usize| cu_lengths[index] as usize / PAGE + index;
    let reach = shape
        .window
        .map_or(usize::MAX, |window| window as usize / 2);
    let sequence = |index: usize| Sequence {
        rows: rows(index),
        sight: Sight::Around {
            reach,
            len: rows(index).len(),
        },
        order: Order::From(page(index)),
    };
    let call = Call {
        shape,
        q,
        sequences,
        sequence: &sequence,
    };
    let lanes = if sequences == 0 {
        0
    } else {
        page(sequences) * shape.kv_heads * call.page()
    };
    let starts = call.words().next_multiple_of(8);
    compute.with_scratch(starts + lanes.div_ceil(2), |compute, scratch| {
        let (starts, lanes) = scratch.split_at_mut(starts);
        // SAFETY: every bit pattern is a float.
        let (_, lanes, _) = unsafe { lanes.align_to_mut::<f32>() };
        call.pack(compute, (k, v), lanes);
        call.run(compute, starts, &*lanes, out);
    });
}

impl AttentionShape {
    fn check(&self, q: Rows<'_>, out: usize) {
        let width = self.heads * self.head_dim;
        assert!(
            self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads),
            "{self:?}"
        );
        assert!((1..=256).contains(&self.head_dim), "{self:?}");
        assert_eq!(q.width(), width, "width of the queries");
        assert_eq!(out, q.len() * width, "elements of the output");
    }
}

/// One sequence of a call.
struct Sequence<'a> {
    /// Rows of the queries and of the output.
    rows: Range<usize>,
    sight: Sight,
    order: Order<'a>,
}

/// Attention of some sequences, whatever keeps their keys and values.
struct Call<'a> {
    shape: &'a AttentionShape,
    q: Rows<'a>,
    sequences: usize,
    sequence: &'a (dyn Fn(usize) -> Sequence<'a> + Sync),
}

impl Call<'_> {
    /// Words of scratch memory for the first task of each sequence.
    fn words(&self) -> usize {
        self.sequences + 1
    }

    /// Lanes of a page of f32.
    fn page(&self) -> usize {
        PageLayout::new::<f32>(self.shape.head_dim).page()
    }

    fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    /// Fills pages of the sequences from rows of keys and values.
    fn pack(&self, compute: &mut Compute, (k, v): (Rows<'_>, Rows<'_>), lanes: &mut [f32]) {
        let level = compute.level();
        let lanes = SharedMut::new(lanes);
        let work = k.len() * self.shape.head_dim * 4;
        compute.run_chunks(self.shape.kv_heads, work, &|heads| {
            for head in heads {
                vectorize(
                    level,
                    Pack {
                        call: self,
                        head,
                        k,
                        v,
                        lanes,
                    },
                );
            }
        });
    }

    /// One task per tile of query rows and head of keys.
    fn run<T: PageLane>(
        &self,
        compute: &mut Compute,
        starts: &mut [u64],
        lanes: &[T],
        out: &mut [f32],
    ) {
        let AttentionShape {
            kv_heads,
            head_dim,
            scale,
            softcap,
            ..
        } = *self.shape;
        let tile = rows_of_tile(head_dim);
        let mut work = 0;
        starts[0] = 0;
        for index in 0..self.sequences {
            let Sequence { rows, sight, .. } = (self.sequence)(index);
            let tiles = (rows.len() * self.group()).div_ceil(tile);
            starts[index + 1] = starts[index] + (tiles * kv_heads) as u64;
            work += rows.len() * sight.positions(rows.len());
        }
        // A float touched takes as long as about sixteen products.
        let work = work * self.shape.heads * head_dim / 16;
        let starts = &starts[..=self.sequences];
        let (level, out) = (compute.level(), SharedMut::new(out));
        compute.run_work(starts[self.sequences] as usize, work, &|task| {
            let index = starts.partition_point(|&start| start <= task as u64) - 1;
            let Sequence { rows, sight, order } = (self.sequence)(index);
            let tiles = (rows.len() * self.group()).div_ceil(tile);
            let task = task - starts[index] as usize;
            let (head, first) = (task / tiles, task % tiles * tile);
            let layout = PageLayout::new::<T>(head_dim);
            WORKSPACE.with_borrow_mut(|workspace| {
                let attend = Attend {
                    source: Source {
                        lanes,
                        layout,
                        kv_heads,
                        head,
                        order,
                    },
                    queries: Queries {
                        q: self.q,
                        first: rows.start,
                        group: self.group(),
                    },
                    sight,
                    scores: Scores { scale, softcap },
                    rows: first..(first + tile).min(rows.len() * self.group()),
                    out,
                    workspace,
                };
                vectorize(level, attend);
            });
        });
    }
}

/// Writes one head of keys and values into the pages of their sequences.
struct Pack<'a, 'c> {
    call: &'a Call<'c>,
    head: usize,
    k: Rows<'a>,
    v: Rows<'a>,
    lanes: SharedMut<'a, f32>,
}

impl Kernel for Pack<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let AttentionShape {
            kv_heads, head_dim, ..
        } = *self.call.shape;
        let layout = PageLayout::new::<f32>(head_dim);
        let columns = self.head * head_dim..(self.head + 1) * head_dim;
        for index in 0..self.call.sequences {
            let Sequence { rows, order, .. } = (self.call.sequence)(index);
            let Order::From(first) = order else { continue };
            for (place, row) in rows.enumerate() {
                let page = ((first + place / PAGE) * kv_heads + self.head) * layout.page();
                // SAFETY: pages of a head belong to one task.
                let page = unsafe { self.lanes.slice(page..page + layout.page()) };
                let (key, value) = (self.k.row(row), self.v.row(row));
                let (key, value) = (&key[columns.clone()], &value[columns.clone()]);
                f32::write(page, &layout, place % PAGE, key, value);
            }
        }
    }
}

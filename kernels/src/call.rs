//! Shares out the attention of a call to threads.

#![expect(unsafe_code, reason = "threads write to one slice")]

use crate::attend::{Attend, CHUNK, Part, WORKSPACE, rows_of_tile, slot};
use crate::attention::{AttentionShape, DistanceBias};
use crate::pages::{PAGE, PageLane, PageLayout};
use crate::shared::SharedMut;
use crate::simd::{Kernel, Simd, vectorize};
use crate::source::{Order, Queries, Scores, Sight, Source};
use crate::{Compute, Level, Rows};
use std::ops::Range;

/// One sequence of a call.
pub(crate) struct Sequence<'a> {
    /// Rows of the queries and of the output.
    pub(crate) rows: Range<usize>,
    pub(crate) sight: Sight,
    pub(crate) order: Order<'a>,
}

/// Attention of some sequences, whatever keeps their keys and values.
pub(crate) struct Call<'a> {
    pub(crate) shape: &'a AttentionShape,
    pub(crate) q: Rows<'a>,
    pub(crate) bias: Option<&'a DistanceBias>,
    pub(crate) sequences: usize,
    pub(crate) sequence: &'a (dyn Fn(usize) -> Sequence<'a> + Sync),
}

impl Call<'_> {
    fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    /// Fills pages of the sequences, all heads of one after the other, from rows of keys and
    /// values. The sequences stand in the order of their pages, each at pages of its own.
    pub(crate) fn pack(
        &self,
        compute: &mut Compute,
        (k, v): (Rows<'_>, Rows<'_>),
        lanes: &mut [f32],
    ) {
        let level = compute.level();
        let AttentionShape {
            kv_heads, head_dim, ..
        } = *self.shape;
        let size = kv_heads * PageLayout::new::<f32>(head_dim).page();
        let pages = lanes.len() / size;
        let lanes = SharedMut::new(lanes);
        compute.run_chunks(pages, PAGE * kv_heads * head_dim * 4, &|pages| {
            vectorize(
                level,
                Pack {
                    call: self,
                    pages,
                    k,
                    v,
                    lanes,
                },
            );
        });
    }

    /// How the call falls into tasks.
    fn plan(&self, threads: usize) -> Plan {
        let tile = rows_of_tile(self.shape.head_dim);
        let (mut whole, mut cut, mut work, mut rows) = (0, 0, 0, 0);
        for index in 0..self.sequences {
            let sequence = (self.sequence)(index);
            let tokens = sequence.rows.len();
            let tiles = (tokens * self.group()).div_ceil(tile) * self.shape.kv_heads;
            whole += tiles;
            cut += tiles * sequence.sight.chunks(tokens).len();
            work += tokens * sequence.sight.positions(tokens);
            rows = rows.max(tokens * self.group());
        }
        // A float touched takes as long as about sixteen products.
        let work = work * self.shape.heads * self.shape.head_dim / 16;
        let by_chunks = threads > 1 && whole < TASKS_PER_THREAD * threads && cut > whole;
        let slot = if by_chunks {
            slot(rows.min(tile), self.shape.head_dim)
        } else {
            0
        };
        Plan {
            tasks: if by_chunks { cut } else { whole },
            by_chunks,
            slot,
            work,
        }
    }

    /// Attention of all sequences over pages of `lanes`.
    pub(crate) fn run<T: PageLane>(&self, compute: &mut Compute, lanes: &[T], out: &mut [f32]) {
        let plan = self.plan(compute.threads());
        let starts = (self.sequences + 1).next_multiple_of(2);
        let words = starts + (plan.tasks * plan.slot).div_ceil(2);
        let mut scratch = compute.take_scratch();
        let (starts, slots) = scratch.words(words).split_at_mut(starts);
        // SAFETY: every bit pattern is a float.
        let (_, slots, _) = unsafe { slots.align_to_mut::<f32>() };
        self.number_tasks(&plan, starts);
        let running = Running {
            call: self,
            plan,
            starts,
            lanes,
            out: SharedMut::new(out),
        };
        running.attend(compute, slots);
        if plan.by_chunks {
            running.merge(compute, slots);
        }
        compute.give_scratch(scratch);
    }

    /// Writes the first task of each sequence, then the number of tasks.
    fn number_tasks(&self, plan: &Plan, starts: &mut [u64]) {
        starts[0] = 0;
        for index in 0..self.sequences {
            let sequence = (self.sequence)(index);
            let (tiles, chunks) = self.parts(plan, &sequence);
            let tasks = tiles * self.shape.kv_heads * chunks.len();
            starts[index + 1] = starts[index] + tasks as u64;
        }
    }

    /// Tiles of a sequence for each head, and the chunks that are tasks of their own.
    fn parts(&self, plan: &Plan, sequence: &Sequence<'_>) -> (usize, Range<usize>) {
        let tokens = sequence.rows.len();
        let tiles = (tokens * self.group()).div_ceil(rows_of_tile(self.shape.head_dim));
        let chunks = if plan.by_chunks {
            sequence.sight.chunks(tokens)
        } else {
            0..1
        };
        (tiles, chunks)
    }
}

/// How a call falls into tasks.
#[derive(Clone, Copy)]
struct Plan {
    tasks: usize,
    /// Whether the chunks of a tile are tasks of their own, because there are few tiles.
    by_chunks: bool,
    /// Floats that keep the sums of a chunk.
    slot: usize,
    /// Floats touched.
    work: usize,
}

/// A call that runs.
struct Running<'a, 'c, T> {
    call: &'a Call<'c>,
    plan: Plan,
    starts: &'a [u64],
    lanes: &'a [T],
    out: SharedMut<'a, f32>,
}

impl<T: PageLane> Running<'_, '_, T> {
    /// One task per tile of query rows and head of keys, or per chunk of it.
    fn attend(&self, compute: &mut Compute, slots: &mut [f32]) {
        let level = compute.level();
        let slots = SharedMut::new(slots);
        let starts = &self.starts[..=self.call.sequences];
        compute.run_work(self.plan.tasks, self.plan.work, &|task| {
            let index = starts.partition_point(|&start| start <= task as u64) - 1;
            let sequence = (self.call.sequence)(index);
            let (tiles, chunks) = self.call.parts(&self.plan, &sequence);
            let local = task - starts[index] as usize;
            let (tile, chunk) = (local / chunks.len(), chunks.start + local % chunks.len());
            let part = if self.plan.by_chunks {
                let slot = task * self.plan.slot..(task + 1) * self.plan.slot;
                // SAFETY: each task has its own slot.
                let to = unsafe { slots.slice(slot) };
                Part::Chunk {
                    start: chunk * CHUNK,
                    to,
                }
            } else {
                Part::Whole
            };
            self.tile(level, &sequence, (tile / tiles, tile % tiles), part);
        });
    }

    /// Merges the chunks of each tile, in order.
    fn merge(&self, compute: &mut Compute, slots: &[f32]) {
        let level = compute.level();
        let kv_heads = self.call.shape.kv_heads;
        compute.run_work(self.call.sequences * kv_heads, slots.len(), &|task| {
            let (index, head) = (task / kv_heads, task % kv_heads);
            let sequence = (self.call.sequence)(index);
            let (tiles, chunks) = self.call.parts(&self.plan, &sequence);
            for tile in 0..tiles {
                let first = self.starts[index] as usize + (head * tiles + tile) * chunks.len();
                let slots = &slots[first * self.plan.slot..][..chunks.len() * self.plan.slot];
                let part = Part::Merge {
                    from: slots,
                    slot: self.plan.slot,
                };
                self.tile(level, &sequence, (head, tile), part);
            }
        });
    }

    fn tile(
        &self,
        level: Level,
        sequence: &Sequence<'_>,
        (head, tile): (usize, usize),
        part: Part<'_>,
    ) {
        let AttentionShape {
            kv_heads,
            head_dim,
            scale,
            softcap,
            ..
        } = *self.call.shape;
        let (rows, group) = (&sequence.rows, self.call.group());
        let (layout, height) = (PageLayout::new::<T>(head_dim), rows_of_tile(head_dim));
        let first = tile * height;
        WORKSPACE.with_borrow_mut(|workspace| {
            let attend = Attend {
                source: Source {
                    lanes: self.lanes,
                    layout,
                    kv_heads,
                    head,
                    order: sequence.order,
                },
                queries: Queries {
                    q: self.call.q,
                    first: rows.start,
                    group,
                },
                sight: sequence.sight,
                scores: Scores {
                    scale,
                    softcap,
                    bias: self.call.bias,
                },
                rows: first..(first + height).min(rows.len() * group),
                part,
                out: self.out,
                workspace,
            };
            vectorize(level, attend);
        });
    }
}

/// Writes keys and values into some pages of their sequences.
struct Pack<'a, 'c> {
    call: &'a Call<'c>,
    pages: Range<usize>,
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
        let size = kv_heads * layout.page();
        let mut index = 0;
        for page in self.pages.clone() {
            while index + 1 < self.call.sequences && self.first_page(index + 1) <= page {
                index += 1;
            }
            let rows = (self.call.sequence)(index).rows;
            let start = rows.start + (page - self.first_page(index)) * PAGE;
            // SAFETY: each page belongs to one task.
            let lanes = unsafe { self.lanes.slice(page * size..(page + 1) * size) };
            // Head by head: sixteen rows of a head's keys and its page stay in the nearest cache.
            for (head, lanes) in lanes.chunks_exact_mut(layout.page()).enumerate() {
                let columns = head * head_dim..(head + 1) * head_dim;
                for (slot, row) in (start..rows.end.min(start + PAGE)).enumerate() {
                    let key = &self.k.row(row)[columns.clone()];
                    let value = &self.v.row(row)[columns.clone()];
                    f32::write(lanes, &layout, slot, key, value);
                }
            }
        }
    }
}

impl Pack<'_, '_> {
    fn first_page(&self, index: usize) -> usize {
        match (self.call.sequence)(index).order {
            Order::From(first) => first,
            Order::Table { .. } => unreachable!("packed sequences lie in pages of their own"),
        }
    }
}

// With fewer tiles than this the threads would wait for the last one.
const TASKS_PER_THREAD: usize = 4;

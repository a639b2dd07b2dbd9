//! Attention of a tile of query rows over the keys and values of one head.
//!
//! Keys are walked in tiles of 64 positions and chunks of 512, both counted from position 0. A
//! chunk has its own running maximum and sums (in powers of two), and chunks are merged in order.
//! Which rows share a tile of queries does not matter: a position that a row does not see adds
//! exact zeros. So the bits of a row depend on its query and what it sees, and on nothing else.

#![expect(unsafe_code, reason = "register tiles read through pointers")]

use crate::gemm::Lane;
use crate::multiply::{Inputs, Lanes, multiply};
use crate::pages::{PAGE, PageLane, PageLayout};
use crate::shared::SharedMut;
use crate::simd::{Format, Kernel, LANES, Simd, math};
use crate::source::{Queries, Scores, Sight, Source};
use std::cell::RefCell;

use std::ops::Range;

/// The attention of some query rows; writes their part of the output.
pub(crate) struct Attend<'a, T: PageLane> {
    pub(crate) source: Source<'a, T>,
    pub(crate) queries: Queries<'a>,
    pub(crate) sight: Sight,
    pub(crate) scores: Scores<'a>,
    pub(crate) rows: Range<usize>,
    pub(crate) part: Part<'a>,
    pub(crate) out: SharedMut<'a, f32>,
    pub(crate) workspace: &'a mut Workspace,
}

/// How much of the work of a tile is to be done.
pub(crate) enum Part<'a> {
    /// All, in one go.
    Whole,
    /// The chunk that begins at this position, whose sums are kept.
    Chunk { start: usize, to: &'a mut [f32] },
    /// What remains after all chunks, kept in slots of this size.
    Merge { from: &'a [f32], slot: usize },
}

/// Floats that keep the sums of a chunk for a tile of `rows` rows.
pub(crate) fn slot(rows: usize, head_dim: usize) -> usize {
    rows * (1 + LANES + head_dim.next_multiple_of(LANES))
}

/// Query rows that a tile can have for heads of `width` elements.
pub(crate) fn rows_of_tile(width: usize) -> usize {
    (TILE_FLOATS / width.next_multiple_of(LANES) / 4 * 4).min(ROWS)
}

/// Memory for a tile, one per thread.
#[repr(align(64))]
pub(crate) struct Workspace {
    scores: [f32; ROWS * TILE],
    sums: [f32; ROWS * LANES],
    out: [f32; TILE_FLOATS],
    total: [f32; TILE_FLOATS],
    queries: [u64; TILE_FLOATS / 2],
    weights: [u64; ROWS * TILE / 2],
    values: [u64; PAGE * WIDTH / 2],
    max: [f32; ROWS],
    total_max: [f32; ROWS],
    total_sum: [f32; ROWS],
}

thread_local! {
    /// The workspace of this thread, made at its first attention.
    pub(crate) static WORKSPACE: RefCell<Box<Workspace>> = RefCell::new(Box::new(Workspace {
        scores: [0.0; ROWS * TILE],
        sums: [0.0; ROWS * LANES],
        out: [0.0; TILE_FLOATS],
        total: [0.0; TILE_FLOATS],
        queries: [0; TILE_FLOATS / 2],
        weights: [0; ROWS * TILE / 2],
        values: [0; PAGE * WIDTH / 2],
        max: [0.0; ROWS],
        total_max: [0.0; ROWS],
        total_sum: [0.0; ROWS],
    }));
}

type InputOf<T, S> = <<T as Lane>::On<S> as Format<S>>::Input;

impl<T: PageLane> Kernel for Attend<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let layout = self.source.layout;
        assert!(self.rows.len() <= rows_of_tile(layout.head_dim) && layout.width <= WIDTH);
        match std::mem::replace(&mut self.part, Part::Whole) {
            Part::Whole => {
                self.pack_queries(simd);
                self.begin();
                let seen = self.seen();
                for start in (seen.start / CHUNK * CHUNK..seen.end).step_by(CHUNK) {
                    self.chunk(simd, start);
                    self.merge(simd);
                }
                self.finish(simd);
            }
            Part::Chunk { start, to } => {
                self.pack_queries(simd);
                self.chunk(simd, start);
                self.keep(to);
            }
            Part::Merge { from, slot } => {
                self.begin();
                for kept in from.chunks_exact(slot) {
                    self.fetch(kept);
                    self.merge(simd);
                }
                self.finish(simd);
            }
        }
    }
}

impl<T: PageLane> Attend<'_, T> {
    #[inline(always)]
    fn token(&self, row: usize) -> usize {
        (self.rows.start + row) / self.queries.group
    }

    /// Where the head of a row stands in a row of `q` and of the output.
    #[inline(always)]
    fn columns(&self, row: usize) -> Range<usize> {
        let group = self.queries.group;
        let head = self.source.head * group + (self.rows.start + row) % group;
        head * self.source.layout.head_dim..(head + 1) * self.source.layout.head_dim
    }

    /// The positions that some row sees.
    #[inline(always)]
    fn seen(&self) -> Range<usize> {
        let last = self.sight.range(self.token(self.rows.len() - 1));
        self.sight.range(self.token(0)).start..last.end
    }

    #[inline(always)]
    fn pack_queries<S: Simd>(&mut self, simd: S) {
        let steps = self.source.layout.key_steps;
        for row in 0..self.rows.len() {
            let q = &self.queries.q.row(self.queries.first + self.token(row))[self.columns(row)];
            let to = self.workspace.queries.as_mut_ptr().cast::<InputOf<T, S>>();
            // SAFETY: the rows of a tile have at most `TILE_FLOATS` elements, and an input takes
            // four bytes for each.
            unsafe { T::On::<S>::pack(simd, q, to.add(row * steps), 1) };
        }
    }

    /// Clears the totals.
    #[inline(always)]
    fn begin(&mut self) {
        let count = self.rows.len();
        self.workspace.total[..count * self.source.layout.width].fill(0.0);
        self.workspace.total_max[..count].fill(LOWEST);
        self.workspace.total_sum[..count].fill(0.0);
    }

    /// Sums up the chunk that begins at `start`.
    #[inline(always)]
    fn chunk<S: Simd>(&mut self, simd: S, start: usize) {
        let count = self.rows.len();
        self.workspace.out[..count * self.source.layout.width].fill(0.0);
        self.workspace.max[..count].fill(LOWEST);
        self.workspace.sums[..count * LANES].fill(0.0);
        let seen = self.seen();
        let positions = start.max(seen.start)..seen.end.min(start + CHUNK);
        for tile in (positions.start / TILE * TILE..positions.end).step_by(TILE) {
            let positions = tile.max(positions.start)..positions.end.min(tile + TILE);
            self.tile(simd, tile, positions);
        }
    }

    /// Copies the sums of a chunk away.
    #[inline(always)]
    fn keep(&self, to: &mut [f32]) {
        let count = self.rows.len();
        let (max, to) = to.split_at_mut(count);
        let (sums, to) = to.split_at_mut(count * LANES);
        let out = count * self.source.layout.width;
        max.copy_from_slice(&self.workspace.max[..count]);
        sums.copy_from_slice(&self.workspace.sums[..count * LANES]);
        to[..out].copy_from_slice(&self.workspace.out[..out]);
    }

    /// Copies the sums of a chunk back.
    #[inline(always)]
    fn fetch(&mut self, kept: &[f32]) {
        let count = self.rows.len();
        let (max, kept) = kept.split_at(count);
        let (sums, kept) = kept.split_at(count * LANES);
        let out = count * self.source.layout.width;
        self.workspace.max[..count].copy_from_slice(max);
        self.workspace.sums[..count * LANES].copy_from_slice(sums);
        self.workspace.out[..out].copy_from_slice(&kept[..out]);
    }

    /// Adds the positions of a tile to the running sums. Tiles begin at multiples of `TILE`;
    /// `positions` is the part of it that some row sees.
    #[inline(always)]
    fn tile<S: Simd>(&mut self, simd: S, start: usize, positions: Range<usize>) {
        let pages = positions.start / PAGE..positions.end.div_ceil(PAGE);
        let first = start / PAGE;

        // Pages that nobody sees are not touched: others stand for them and are masked.
        let keys = self.pages(first, &pages);
        let next = self.next(first + PAGES);
        let count = self.rows.len();
        if count == 1 {
            self.score::<S, 1>(
                simd,
                0,
                &Tile {
                    pages: keys,
                    next,
                    seen: (0, PAGES),
                },
            );
        } else {
            for row in (0..count).step_by(4) {
                let next = next.filter(|_| row == 0);
                self.score::<S, 4>(
                    simd,
                    row,
                    &Tile {
                        pages: keys,
                        next,
                        seen: (0, PAGES),
                    },
                );
            }
        }
        for row in 0..count {
            self.weigh(simd, row, start);
        }
        // Beyond the last position a page may hold anything, even what is not a number.
        let to_values = self.source.layout.keys();
        let mut values = keys.map(|page| page.wrapping_add(to_values));
        let next = next.map(|next| next.map(|page| page.wrapping_add(to_values)));
        let slots = positions.end % PAGE;
        if slots != 0 {
            values[pages.end - 1 - first] = self.clear_after(pages.end - 1, slots);
        }
        let seen = (pages.start - first, pages.end - first);
        if count == 1 {
            self.collect::<S, 1>(
                simd,
                0,
                &Tile {
                    pages: values,
                    next,
                    seen,
                },
            );
        } else {
            for row in (0..count).step_by(4) {
                let next = next.filter(|_| row == 0);
                self.collect::<S, 4>(
                    simd,
                    row,
                    &Tile {
                        pages: values,
                        next,
                        seen,
                    },
                );
            }
        }
    }

    /// Where the pages of a tile begin; those outside of `seen` by others of it.
    #[inline(always)]
    fn pages(&self, first: usize, seen: &Range<usize>) -> [*const T; PAGES] {
        let mut pages = [std::ptr::null(); PAGES];
        for (i, page) in pages.iter_mut().enumerate() {
            *page = self
                .source
                .page((first + i).clamp(seen.start, seen.end - 1))
                .as_ptr();
        }
        pages
    }

    /// The pages of the next tile, if they are to be fetched while this one is computed: with few
    /// rows a tile is done before the next arrives from memory.
    #[inline(always)]
    fn next(&self, first: usize) -> Option<[*const T; PAGES]> {
        let end = self.seen().end.div_ceil(PAGE);
        (self.rows.len() <= FETCH_ROWS && first < end).then(|| self.pages(first, &(first..end)))
    }

    /// The values of a page, with zeros from position `slots` of it on.
    #[inline(always)]
    fn clear_after(&mut self, page: usize, slots: usize) -> *const T {
        let layout = &self.source.layout;
        // SAFETY: a lane is a number of four bytes, valid with any bits.
        let (_, to, _) = unsafe { self.workspace.values.align_to_mut::<T>() };
        T::copy_values(self.source.page(page), layout, slots, to);
        to.as_ptr()
    }

    /// Scores of `R` rows with the keys of a tile.
    #[inline(always)]
    fn score<S: Simd, const R: usize>(&mut self, simd: S, row: usize, keys: &Tile<T>) {
        if S::WIDE {
            self.score_pages::<S, R, PAGES>(simd, row, 0, keys);
        } else {
            for page in 0..PAGES {
                self.score_pages::<S, R, 1>(simd, row, page, keys);
            }
        }
    }

    #[inline(always)]
    fn score_pages<S: Simd, const R: usize, const P: usize>(
        &mut self,
        simd: S,
        row: usize,
        page: usize,
        keys: &Tile<T>,
    ) {
        let steps = self.source.layout.key_steps;
        let inputs = self.workspace.queries.as_ptr().cast::<InputOf<T, S>>();
        let inputs = Inputs {
            start: inputs.wrapping_add(row * steps),
            row: steps,
            step: 1,
        };
        let mut sums = [[simd.splat(0.0); P]; R];
        let panels = std::array::from_fn(|p| keys.pages[page + p]);
        let next = keys
            .next
            .map(|next| std::array::from_fn(|p| next[page + p]));
        // SAFETY: `R` rows of `steps` inputs are in the workspace (those beyond the last row are
        // stale numbers); each key points to a page.
        unsafe {
            multiply::<S, T::On<S>, R, P>(
                simd,
                steps,
                inputs,
                Lanes {
                    panels,
                    next,
                    step: PAGE,
                },
                &mut sums,
            );
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (p, sum) in sums.into_iter().enumerate() {
                let start = (row + r) * TILE + (page + p) * PAGE;
                simd.store_slice(&mut self.workspace.scores[start..start + PAGE], sum);
            }
        }
    }

    /// Turns the scores of a row into weights and rescales its sums to the new maximum.
    #[inline(always)]
    fn weigh<S: Simd>(&mut self, simd: S, row: usize, start: usize) {
        let token = self.token(row);
        let seen = self.sight.range(token);
        let group = self.queries.group;
        let head = self.source.head * group + (self.rows.start + row) % group;
        let work = &mut *self.workspace;
        let scores = &work.scores[row * TILE..(row + 1) * TILE];
        let mut x = [simd.splat(0.0); PAGES];
        for (x, scores) in x.iter_mut().zip(scores.chunks_exact(LANES)) {
            *x = self.scores.powers(simd, simd.load_slice(scores));
        }
        if let Some(bias) = self.scores.bias {
            let bias = bias.tile(head, token, start).chunks_exact(LANES);
            for (x, bias) in x.iter_mut().zip(bias) {
                *x = simd.add(*x, simd.load_slice(bias));
            }
        }
        if seen.start > start || seen.end < start + TILE {
            mask(simd, &mut x, start, &seen);
        }
        let max = simd.max(simd.max(x[0], x[1]), simd.max(x[2], x[3]));
        let (old, max) = (work.max[row], simd.largest(max));
        let sums = &mut work.sums[row * LANES..(row + 1) * LANES];
        if max > old {
            work.max[row] = max;
            let factor = math::exp2(simd, simd.splat(old - max));
            simd.store_slice(sums, simd.mul(simd.load_slice(sums), factor));
            let width = self.source.layout.width;
            for out in work.out[row * width..(row + 1) * width].chunks_exact_mut(LANES) {
                simd.store_slice(out, simd.mul(simd.load_slice(out), factor));
            }
        }
        let max = simd.splat(work.max[row]);
        let mut weights = [0.0; TILE];
        for (weights, x) in weights.chunks_exact_mut(LANES).zip(&mut x) {
            *x = math::exp2(simd, simd.sub(*x, max));
            simd.store_slice(weights, *x);
        }
        let sum = simd.add(simd.add(x[0], x[1]), simd.add(x[2], x[3]));
        simd.store_slice(sums, simd.add(simd.load_slice(sums), sum));
        let steps = TILE / <T as Lane>::DEPTH;
        let to = work
            .weights
            .as_mut_ptr()
            .cast::<InputOf<T, S>>()
            .wrapping_add(row * steps);
        // SAFETY: the weights of a tile take four bytes each.
        unsafe { T::On::<S>::pack(simd, &weights, to, 1) };
    }

    /// Adds weights times values to the outputs of `R` rows.
    #[inline(always)]
    fn collect<S: Simd, const R: usize>(&mut self, simd: S, row: usize, values: &Tile<T>) {
        let columns = self.source.layout.width / LANES;
        let mut column = 0;
        while column < columns {
            if S::WIDE && columns - column >= 4 {
                self.collect_columns::<S, R, 4>(simd, row, column, values);
                column += 4;
            } else {
                self.collect_columns::<S, R, 1>(simd, row, column, values);
                column += 1;
            }
        }
    }

    #[inline(always)]
    fn collect_columns<S: Simd, const R: usize, const P: usize>(
        &mut self,
        simd: S,
        row: usize,
        column: usize,
        values: &Tile<T>,
    ) {
        let PageLayout {
            width, value_steps, ..
        } = self.source.layout;
        let work = &mut *self.workspace;
        let mut sums = [[simd.splat(0.0); P]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            let start = (row + r) * width + column * LANES;
            for (sum, out) in sums.iter_mut().zip(work.out[start..].chunks_exact(LANES)) {
                *sum = simd.load_slice(out);
            }
        }
        let steps = PAGES * value_steps;
        let weights = work
            .weights
            .as_ptr()
            .cast::<InputOf<T, S>>()
            .wrapping_add(row * steps);
        for page in values.seen.0..values.seen.1 {
            let panels = spread(values.pages[page], column);
            let next = values.next.map(|next| spread(next[page], column));
            let start = weights.wrapping_add(page * value_steps);
            // SAFETY: the weights of `R` rows of a tile are in the workspace (those beyond the
            // last row are stale numbers); each page points to `value_steps` rows of `width`.
            unsafe {
                multiply::<S, T::On<S>, R, P>(
                    simd,
                    value_steps,
                    Inputs {
                        start,
                        row: steps,
                        step: 1,
                    },
                    Lanes {
                        panels,
                        next,
                        step: width,
                    },
                    &mut sums,
                );
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            let start = (row + r) * width + column * LANES;
            for (sum, out) in sums
                .into_iter()
                .zip(work.out[start..].chunks_exact_mut(LANES))
            {
                simd.store_slice(out, sum);
            }
        }
    }

    /// Adds the chunk's sums to the total. A chunk without a visible position changes no bit.
    #[inline(always)]
    fn merge<S: Simd>(&mut self, simd: S) {
        let width = self.source.layout.width;
        let work = &mut *self.workspace;
        for row in 0..self.rows.len() {
            let max = if work.max[row] > work.total_max[row] {
                work.max[row]
            } else {
                work.total_max[row]
            };
            let before = math::exp2(simd, simd.splat(work.total_max[row] - max));
            let now = math::exp2(simd, simd.splat(work.max[row] - max));
            let sum = simd.load_slice(&work.sums[row * LANES..(row + 1) * LANES]);
            let sum = simd.splat(simd.sum(sum));
            let total = simd.mul(simd.splat(work.total_sum[row]), before);
            work.total_sum[row] = simd.to_array(simd.fma(sum, now, total))[0];
            work.total_max[row] = max;
            let columns = row * width..(row + 1) * width;
            let outs = work.out[columns.clone()].chunks_exact(LANES);
            for (total, out) in work.total[columns].chunks_exact_mut(LANES).zip(outs) {
                let kept = simd.mul(simd.load_slice(total), before);
                simd.store_slice(total, simd.fma(simd.load_slice(out), now, kept));
            }
        }
    }

    /// Divides by the sums and writes the output.
    #[inline(always)]
    fn finish<S: Simd>(&mut self, simd: S) {
        let PageLayout {
            head_dim, width, ..
        } = self.source.layout;
        let heads = self.queries.q.width();
        for row in 0..self.rows.len() {
            let columns = self.columns(row);
            let start = (self.queries.first + self.token(row)) * heads;
            // SAFETY: each head of each row belongs to one task.
            let out = unsafe { self.out.slice(start + columns.start..start + columns.end) };
            let sum = simd.splat(self.workspace.total_sum[row]);
            let total = &self.workspace.total[row * width..row * width + head_dim];
            for (out, total) in out.chunks_mut(LANES).zip(total.chunks(LANES)) {
                simd.store_slice(out, simd.div(simd.load_slice(total), sum));
            }
        }
    }
}

/// The keys or the values of a tile.
struct Tile<T> {
    pages: [*const T; PAGES],
    /// Those of the next tile, to be fetched.
    next: Option<[*const T; PAGES]>,
    /// Which pages to compute: first and end.
    seen: (usize, usize),
}

/// Columns of sixteen lanes from `column` on.
#[inline(always)]
fn spread<T, const P: usize>(row: *const T, column: usize) -> [*const T; P] {
    let mut columns = [row; P];
    for (p, place) in columns.iter_mut().enumerate() {
        *place = row.wrapping_add((column + p) * LANES);
    }
    columns
}

/// Sets the positions outside of `seen` to minus infinity.
#[inline(always)]
fn mask<S: Simd>(simd: S, x: &mut [S::F; PAGES], start: usize, seen: &Range<usize>) {
    let hidden = simd.splat(f32::NEG_INFINITY);
    for (i, x) in x.iter_mut().enumerate() {
        let first = (start + i * LANES) as isize;
        let places = simd.load_array(&PLACES);
        // Whole numbers far below 2^24: exact.
        let after = simd.add(places, simd.splat((first - seen.start as isize) as f32));
        let before = simd.sub(simd.splat((seen.end as isize - 1 - first) as f32), places);
        *x = simd.select_negative(after, hidden, *x);
        *x = simd.select_negative(before, hidden, *x);
    }
}

const PLACES: [f32; LANES] = [
    0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.,
];

/// Positions of a tile: four vectors of scores.
pub(crate) const TILE: usize = 64;
const PAGES: usize = TILE / PAGE;
/// Positions summed up before they are merged.
pub(crate) const CHUNK: usize = 512;
/// The widest head.
const WIDTH: usize = 256;
/// Floats of the outputs of a tile: with scores, weights, keys and values it stays in the
/// first-level cache.
const TILE_FLOATS: usize = 2048;
const ROWS: usize = 32;
const FETCH_ROWS: usize = 8;
/// Below every score; finite, so that differences are numbers.
const LOWEST: f32 = -1e30;

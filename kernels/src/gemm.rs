//! Matrix product with weights in panels: from one row (bound by memory) to many (by arithmetic).
//!
//! Weights lie as `[outputs / 16][steps][16]` lanes, each of one f32 or of a pair of bf16 along
//! the inputs. A tile of rows times panels keeps its sums in registers and walks the steps. Every
//! sum takes its products one after another along the inputs, whatever the tile, and between
//! blocks of steps it rests in `y` as the f32 it is; so its bits depend on nothing else.
#![expect(unsafe_code, reason = "register tiles read through pointers")]

use crate::Compute;
use crate::activation::{Function, InPlace};
use crate::buffer::{Buffer, Number, OutOfMemory};
use crate::multiply::{Inputs, Lanes, multiply};
use crate::shared::SharedMut;
use crate::simd::{F32Lanes, Format, Kernel, LANES, Simd, vectorize};
use std::marker::PhantomData;
use std::ops::Range;

/// Packed weights `[outputs, inputs]`; lanes hold `1` (f32) or `2` (bf16) weights.
#[derive(Debug)]
pub(crate) struct Panels<T: Number> {
    pub(crate) lanes: Buffer<T>,
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    pub(crate) steps: usize,
}

/// What happens to sums before they are left in `y`.
#[derive(Clone, Copy, Default)]
pub(crate) struct After<'a> {
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) activation: Option<Function>,
}

/// Lanes that choose how they are multiplied.
pub(crate) trait Lane: Number {
    /// Weights of a lane.
    const DEPTH: usize;
    type On<S: Simd>: Format<S, Stored = Self>;
}

impl Lane for f32 {
    const DEPTH: usize = 1;
    type On<S: Simd> = F32Lanes;
}

impl Lane for u32 {
    const DEPTH: usize = 2;
    type On<S: Simd> = S::Bf16;
}

impl<T: Lane> Panels<T> {
    /// Packs weights; `lane(output, step)` reads one lane.
    pub(crate) fn pack(
        outputs: usize,
        inputs: usize,
        lane: impl Fn(usize, usize) -> T,
    ) -> Result<Self, OutOfMemory> {
        let steps = inputs.div_ceil(T::DEPTH);
        let mut lanes = Buffer::zeroed(outputs.div_ceil(LANES) * steps * LANES)?;
        for (panel, lanes) in lanes.chunks_exact_mut((steps * LANES).max(1)).enumerate() {
            for output in panel * LANES..outputs.min((panel + 1) * LANES) {
                for (step, lanes) in lanes.chunks_exact_mut(LANES).enumerate() {
                    lanes[output - panel * LANES] = lane(output, step);
                }
            }
        }
        Ok(Self {
            lanes,
            outputs,
            inputs,
            steps,
        })
    }

    /// Overwrites `y` with `activation(x W^T + bias)`.
    pub(crate) fn forward(
        &self,
        compute: &mut Compute,
        x: &[f32],
        after: After<'_>,
        y: &mut [f32],
    ) {
        let rows = x.len() / self.inputs;
        if rows == 0 || self.outputs == 0 {
            return;
        }
        let level = compute.level();
        let tiling = vectorize(level, Tile::<T>::new(rows, self.steps));
        let mut memory = compute.take_scratch();
        let scratch = SharedMut::new(memory.words(tiling.count() * tiling.words));
        compute.run_chunks(tiling.count(), tiling.height * self.inputs, &|tiles| {
            vectorize(
                level,
                Pack {
                    panels: self,
                    tiling,
                    x,
                    scratch,
                    tiles,
                },
            );
        });
        let y = SharedMut::new(y);
        let split = Split::new(self, &tiling, compute.threads());
        compute.run(split.tasks(), &|index| {
            let (panels, tiles) = split.part(index);
            vectorize(
                level,
                Part {
                    weights: self,
                    tiling,
                    scratch,
                    after,
                    y,
                    panels,
                    tiles,
                },
            );
        });
        compute.give_scratch(memory);
    }
}

/// How rows fall into tiles: all of `height` rows but the last.
#[derive(Clone, Copy, Debug)]
struct Tiling {
    rows: usize,
    height: usize,
    last: usize,
    /// Words that the inputs of a tile take.
    words: usize,
}

impl Tiling {
    fn count(&self) -> usize {
        self.rows.div_ceil(self.height)
    }

    /// Rows of a tile, and the height of the kernel that computes it.
    fn tile(&self, tile: usize) -> (Range<usize>, usize) {
        let start = tile * self.height;
        if start + self.height >= self.rows {
            (start..self.rows, self.last)
        } else {
            (start..start + self.height, self.height)
        }
    }
}

struct Tile<T> {
    rows: usize,
    steps: usize,
    lane: PhantomData<T>,
}

impl<T> Tile<T> {
    fn new(rows: usize, steps: usize) -> Self {
        Self {
            rows,
            steps,
            lane: PhantomData,
        }
    }
}

impl<T: Lane> Kernel for Tile<T> {
    type Output = Tiling;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Tiling {
        let heights: &[usize] = if S::WIDE {
            &[1, 2, 4, 6, 8, 12]
        } else {
            &[1, 2, 4]
        };
        let fit = |rows: usize| *heights.iter().find(|&&height| height >= rows).unwrap_or(&1);
        let highest = heights[heights.len() - 1];
        let height = fit(self.rows.div_ceil(self.rows.div_ceil(highest)));
        let last = fit(self.rows - (self.rows - 1) / height * height);
        let bytes = height * self.steps * size_of::<InputOf<T, S>>();
        Tiling {
            rows: self.rows,
            height,
            last,
            words: bytes.div_ceil(size_of::<u64>()),
        }
    }
}

/// Converts rows of `x` into the inputs of tiles: `[tile][step][height]`.
struct Pack<'a, T: Lane> {
    panels: &'a Panels<T>,
    tiling: Tiling,
    x: &'a [f32],
    scratch: SharedMut<'a, u64>,
    tiles: Range<usize>,
}

impl<T: Lane> Kernel for Pack<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let inputs = self.panels.inputs;
        for tile in self.tiles {
            let (rows, height) = self.tiling.tile(tile);
            let words = tile * self.tiling.words;
            // SAFETY: each tile has its own words and belongs to one task.
            let to = unsafe { self.scratch.slice(words..words + self.tiling.words) };
            let to = to.as_mut_ptr().cast::<<T::On<S> as Format<S>>::Input>();
            for (i, row) in rows.enumerate() {
                let x = &self.x[row * inputs..(row + 1) * inputs];
                // SAFETY: the words of a tile hold `height * steps` inputs; this row writes at
                // `i + step * height` for each step.
                unsafe { T::On::<S>::pack(simd, x, to.add(i), height) };
            }
        }
    }
}

/// How the work falls into tasks: chunks of panels by blocks of tiles.
#[derive(Clone, Copy, Debug)]
struct Split {
    panels: usize,
    panels_chunk: usize,
    tiles: usize,
    tiles_block: usize,
}

impl Split {
    fn new<T: Lane>(weights: &Panels<T>, tiling: &Tiling, threads: usize) -> Self {
        let panels = weights.outputs.div_ceil(LANES);
        let tiles = tiling.count();
        let tiles_block = (ROWS_BLOCK / tiling.height).clamp(1, tiles);
        let work = weights.steps * LANES * (WEIGHT_WORK + tiling.rows.min(ROWS_BLOCK));
        let least = TASK_WORK.div_ceil(work.max(1));
        let even = panels * tiles.div_ceil(tiles_block) / (threads * TASKS_PER_THREAD);
        let chunk = if threads == 1 {
            CHUNK_MAX
        } else {
            even.clamp(least, CHUNK_MAX.max(least))
        };
        let panels_chunk = chunk.next_multiple_of(4).min(panels);
        Self {
            panels,
            panels_chunk,
            tiles,
            tiles_block,
        }
    }

    fn blocks(&self) -> usize {
        self.tiles.div_ceil(self.tiles_block)
    }

    fn tasks(&self) -> usize {
        self.panels.div_ceil(self.panels_chunk) * self.blocks()
    }

    /// Panels and tiles of a task; neighbours share panels.
    fn part(&self, index: usize) -> (Range<usize>, Range<usize>) {
        let panel = index / self.blocks() * self.panels_chunk;
        let tile = index % self.blocks() * self.tiles_block;
        (
            panel..(panel + self.panels_chunk).min(self.panels),
            tile..(tile + self.tiles_block).min(self.tiles),
        )
    }
}

/// The product of some panels with some tiles.
struct Part<'a, T: Lane> {
    weights: &'a Panels<T>,
    tiling: Tiling,
    scratch: SharedMut<'a, u64>,
    after: After<'a>,
    y: SharedMut<'a, f32>,
    panels: Range<usize>,
    tiles: Range<usize>,
}

impl<T: Lane> Kernel for Part<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let group = if S::WIDE && self.tiling.height > 4 {
            2
        } else {
            4
        };
        let walk = Walk::new(&self, group);
        for index in 0..walk.blocks() {
            let (panel, step) = walk.block(index);
            let panels = panel..self.panels.end.min(panel + group);
            let steps = step..self.weights.steps.min(step + walk.depth);
            // The first tile of a block asks for the weights of the next.
            let mut ahead = if self.tiling.height < FETCH_FROM {
                0
            } else {
                walk.ahead(index)
            };
            for tile in self.tiles.clone() {
                self.tile(simd, tile, ahead, (panels.clone(), steps.clone()));
                ahead = 0;
            }
        }
    }
}

/// The order in which a task walks its weights, in blocks of some panels by some steps.
struct Walk {
    panels: Range<usize>,
    group: usize,
    steps: usize,
    /// Steps of a block.
    depth: usize,
    /// Whether all steps of a group come before the next group. Otherwise the inputs of a block
    /// of steps, which are too many for the cache together, meet all panels first.
    deep: bool,
}

impl Walk {
    #[inline(always)]
    fn new<T: Lane>(part: &Part<'_, T>, group: usize) -> Self {
        let steps = part.weights.steps;
        let inputs = part.tiles.len() * part.tiling.height * steps;
        let most = if part.tiles.len() == 1 {
            STREAM_BLOCK
        } else {
            STEPS_BLOCK
        };
        let depth = steps.div_ceil(steps.div_ceil(most));
        Self {
            panels: part.panels.clone(),
            group,
            steps,
            depth,
            deep: inputs <= INPUTS_CACHED,
        }
    }

    #[inline(always)]
    fn groups(&self) -> usize {
        self.panels.len().div_ceil(self.group)
    }

    #[inline(always)]
    fn blocks(&self) -> usize {
        self.groups() * self.steps.div_ceil(self.depth)
    }

    /// First panel and first step of a block.
    #[inline(always)]
    fn block(&self, index: usize) -> (usize, usize) {
        let (group, cut) = if self.deep {
            let cuts = self.steps.div_ceil(self.depth);
            (index / cuts, index % cuts)
        } else {
            (index % self.groups(), index / self.groups())
        };
        (self.panels.start + group * self.group, cut * self.depth)
    }

    /// Lanes from a block to the next, modulo the size of the memory; 0 for the last.
    #[inline(always)]
    fn ahead(&self, index: usize) -> usize {
        if index + 1 == self.blocks() {
            return 0;
        }
        let place = |(panel, step): (usize, usize)| (panel * self.steps + step) * LANES;
        place(self.block(index + 1)).wrapping_sub(place(self.block(index)))
    }
}

/// Where a register tile stands.
struct At<I> {
    rows: Range<usize>,
    panel: usize,
    steps: Range<usize>,
    inputs: *const I,
    /// How many lanes ahead weights are to be fetched, 0 for not at all.
    ahead: usize,
}

type InputOf<T, S> = <<T as Lane>::On<S> as Format<S>>::Input;

impl<T: Lane> Part<'_, T> {
    #[inline(always)]
    fn tile<S: Simd>(
        &self,
        simd: S,
        tile: usize,
        ahead: usize,
        (panels, steps): (Range<usize>, Range<usize>),
    ) {
        let (rows, height) = self.tiling.tile(tile);
        let words = tile * self.tiling.words;
        let finished = self
            .after
            .activation
            .filter(|_| steps.end == self.weights.steps);
        // SAFETY: packing is over, so the words are only read; each tile begins at its own.
        let inputs = unsafe { self.scratch.start().add(words).cast::<InputOf<T, S>>() };
        // SAFETY: the tile holds `height` inputs for each step.
        let inputs = unsafe { inputs.add(steps.start * height) };
        let at = At {
            rows: rows.clone(),
            panel: panels.start,
            steps,
            inputs,
            ahead,
        };
        match height {
            1 => self.columns::<S, 1>(simd, at, panels.end),
            2 => self.columns::<S, 2>(simd, at, panels.end),
            4 => self.columns::<S, 4>(simd, at, panels.end),
            6 if S::WIDE => self.columns::<S, 6>(simd, at, panels.end),
            8 if S::WIDE => self.columns::<S, 8>(simd, at, panels.end),
            12 if S::WIDE => self.columns::<S, 12>(simd, at, panels.end),
            _ => unreachable!("no kernel of height {height}"),
        }
        if let Some(function) = finished {
            self.activate(simd, function, rows, panels);
        }
    }

    /// Applies the activation to the columns of some panels, which were just written.
    #[inline(always)]
    fn activate<S: Simd>(
        &self,
        simd: S,
        function: Function,
        rows: Range<usize>,
        panels: Range<usize>,
    ) {
        let outputs = self.weights.outputs;
        let columns = panels.start * LANES..outputs.min(panels.end * LANES);
        for row in rows {
            let row = row * outputs;
            // SAFETY: rows and panels of a task are its own.
            let x = unsafe { self.y.slice(row + columns.start..row + columns.end) };
            InPlace { function, x }.run(simd);
        }
    }

    /// The panels from `at.panel` to `end`, as many at once as there are registers for.
    #[inline(always)]
    fn columns<S: Simd, const R: usize>(&self, simd: S, at: At<InputOf<T, S>>, end: usize) {
        let most = if !S::WIDE {
            4 / R
        } else if R > 4 {
            2
        } else {
            4
        };
        let mut at = at;
        while at.panel < end {
            let left = end - at.panel;
            if most >= 4 && left >= 4 {
                self.registers::<S, R, 4>(simd, &at);
                at.panel += 4;
            } else if most >= 2 && left >= 2 {
                self.registers::<S, R, 2>(simd, &at);
                at.panel += 2;
            } else {
                self.registers::<S, R, 1>(simd, &at);
                at.panel += 1;
            }
        }
    }

    /// `R` rows times `P` panels over some steps, from `y` (or zero) to `y` (plus the bias).
    #[inline(always)]
    fn registers<S: Simd, const R: usize, const P: usize>(&self, simd: S, at: &At<InputOf<T, S>>) {
        let panel = self.weights.steps * LANES;
        let mut sums = [[simd.splat(0.0); P]; R];
        if at.steps.start > 0 {
            self.each::<R, P>(at, |row, p, y| sums[row][p] = simd.load_slice(y));
        }
        let first = at.panel * panel + at.steps.start * LANES;
        let last = (at.panel + P - 1) * panel + at.steps.end * LANES;
        let lanes = self.weights.lanes[first..last].as_ptr();
        let lanes = std::array::from_fn(|p| lanes.wrapping_add(p * panel));
        let inputs = Inputs {
            start: at.inputs,
            row: 1,
            step: R,
        };
        let next = (at.ahead > 0).then(|| lanes.map(|lanes| lanes.wrapping_add(at.ahead)));
        let lanes = Lanes {
            panels: lanes,
            next,
            step: LANES,
        };
        // SAFETY: the range above holds the steps of `P` panels, and the tile holds `R` inputs
        // for each step from `at.inputs` on.
        unsafe {
            multiply::<S, T::On<S>, R, P>(simd, at.steps.len(), inputs, lanes, &mut sums);
        }
        let bias = self
            .after
            .bias
            .filter(|_| at.steps.end == self.weights.steps);
        self.each::<R, P>(at, |row, p, y| {
            let mut sum = sums[row][p];
            if let Some(bias) = bias {
                let first = (at.panel + p) * LANES;
                sum = simd.add(sum, simd.load_slice(&bias[first..first + y.len()]));
            }
            simd.store_slice(y, sum);
        });
    }

    /// Calls `visit(row, panel, columns of y)` for the places of a register tile that exist.
    #[inline(always)]
    fn each<const R: usize, const P: usize>(
        &self,
        at: &At<impl Copy>,
        mut visit: impl FnMut(usize, usize, &mut [f32]),
    ) {
        let outputs = self.weights.outputs;
        for row in 0..R {
            if row >= at.rows.len() {
                break;
            }
            for p in 0..P {
                let first = (at.panel + p) * LANES;
                let start = (at.rows.start + row) * outputs + first;
                // SAFETY: rows and panels of a task are its own.
                let y = unsafe { self.y.slice(start..start + LANES.min(outputs - first)) };
                visit(row, p, y);
            }
        }
    }
}

// A block of 256 rows of inputs (256 KiB for a block of steps) stays in the second-level cache
// while panels pass by, and 256 steps of two panels (32 KiB) in the first-level cache.
const ROWS_BLOCK: usize = 256;
const STEPS_BLOCK: usize = 256;
// One tile walks its weights once: a block is what fits into the second-level cache twice.
const STREAM_BLOCK: usize = 2048;
// Tiles of few rows wait for memory only, which the machine fetches ahead well by itself; with
// more rows it sees the next loads too late.
const FETCH_FROM: usize = 4;
const INPUTS_CACHED: usize = ROWS_BLOCK * STEPS_BLOCK;

// One weight read from memory takes about as long as the products of eight rows with it.
const WEIGHT_WORK: usize = 8;
// About 10 us of work: less is not worth handing over.
const TASK_WORK: usize = 256 << 10;
const TASKS_PER_THREAD: usize = 4;
const CHUNK_MAX: usize = 16;

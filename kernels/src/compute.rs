//! Where ops run: the instruction set, the threads and the reusable scratch memory.

#![expect(unsafe_code, reason = "cache lines are lent as words")]

use crate::simd;
use crate::threads::Threads;

/// The instruction sets an op can be written for, slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Plain Rust, any machine.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with bf16 dot products.
    Avx512Bf16,
}

impl Level {
    /// Every level, slowest first.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16];

    /// The best level of this machine.
    pub fn detect() -> Self {
        simd::detect()
    }

    /// Whether this machine can run the level.
    pub fn is_supported(self) -> bool {
        self <= Self::detect()
    }
}

/// Threads, the instruction set and scratch memory: the first argument of every op.
#[derive(Debug)]
pub struct Compute {
    threads: Threads,
    level: Level,
    /// Pieces that no call uses now. The last given back is the first taken, so that nested uses
    /// find the sizes they had before.
    scratch: Vec<Scratch>,
}

impl Compute {
    /// Starts `threads - 1` workers of its own; the caller of an op is the remaining thread.
    pub fn new(threads: usize) -> Self {
        Self::with_level(threads, Level::detect())
    }

    /// The same with a given instruction set, for tests and comparisons.
    pub fn with_level(threads: usize, level: Level) -> Self {
        Self::on(Threads::new(threads), level)
    }

    /// On threads that others use too, with the best instruction set.
    pub fn shared(threads: &Threads) -> Self {
        Self::on(threads.clone(), Level::detect())
    }

    fn on(threads: Threads, level: Level) -> Self {
        assert!(level.is_supported(), "this machine has no {level:?}");
        Self {
            threads,
            level,
            scratch: Vec::new(),
        }
    }

    /// Threads that take part in an op, the caller included.
    pub fn threads(&self) -> usize {
        self.threads.count()
    }

    /// The instruction set the ops use.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Runs `task(0)` to `task(tasks - 1)`, each once, on all threads, and returns when all are
    /// done. A panic of a task is passed on after the others have stopped.
    pub fn run(&mut self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        self.threads.run(tasks, task);
    }

    /// Runs `task` for chunks of `items`, of a size that suits the work: `item_work` is the number
    /// of floats touched for one item. Little work stays on the calling thread.
    pub(crate) fn run_chunks(
        &mut self,
        items: usize,
        item_work: usize,
        task: &(dyn Fn(std::ops::Range<usize>) + Sync),
    ) {
        let work = items.saturating_mul(item_work);
        if work < PARALLEL_FROM || self.threads() == 1 || items < 2 {
            return task(0..items);
        }
        let chunk = (items / (self.threads() * 4))
            .max(CHUNK_WORK / item_work.max(1))
            .max(1);
        self.run(items.div_ceil(chunk), &|index| {
            task(index * chunk..((index + 1) * chunk).min(items));
        });
    }

    /// Runs the tasks on all threads when the work, in floats touched, is worth it.
    pub(crate) fn run_work(&mut self, tasks: usize, work: usize, task: &(dyn Fn(usize) + Sync)) {
        if work < PARALLEL_FROM {
            (0..tasks).for_each(task);
        } else {
            self.run(tasks, task);
        }
    }

    /// Takes a piece of scratch memory; several may be out at once.
    pub(crate) fn take_scratch(&mut self) -> Scratch {
        self.scratch.pop().unwrap_or_default()
    }

    /// Gives a piece of scratch memory back, for the next call.
    pub(crate) fn give_scratch(&mut self, scratch: Scratch) {
        self.scratch.push(scratch);
    }
}

/// Memory that is reused from call to call.
#[derive(Debug, Default)]
pub(crate) struct Scratch(Vec<Line>);

impl Scratch {
    /// `words` words, zero or stale, aligned to cache lines.
    pub(crate) fn words(&mut self, words: usize) -> &mut [u64] {
        let lines = words.div_ceil(LINE_WORDS);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0; LINE_WORDS]));
        }
        // SAFETY: a line is an array of words without padding.
        let (_, all, _) = unsafe { self.0.align_to_mut::<u64>() };
        &mut all[..words]
    }
}

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "read as words")] [u64; LINE_WORDS]);

const LINE_WORDS: usize = 8;

// Waking a parked worker costs about 5 us and it arrives some 30 us later; a thread handles about
// 2,000 floats per us.
const PARALLEL_FROM: usize = 32 << 10;
const CHUNK_WORK: usize = 8 << 10;

//! Where ops run: the instruction set, the threads and the reusable scratch memory.

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
    /// The best level of this machine.
    pub fn detect() -> Self {
        Self::Portable
    }

    /// Whether this machine can run the level.
    pub fn is_supported(self) -> bool {
        self <= Self::detect()
    }
}

/// A pool of threads, the instruction set and scratch memory: the first argument of every op.
#[derive(Debug)]
pub struct Compute {
    threads: usize,
    level: Level,
}

impl Compute {
    /// Starts `threads - 1` workers; the caller of an op is the remaining thread.
    pub fn new(threads: usize) -> Self {
        Self::with_level(threads, Level::detect())
    }

    /// The same with a given instruction set, for tests and comparisons.
    pub fn with_level(threads: usize, level: Level) -> Self {
        assert!(threads >= 1, "an op needs at least one thread");
        assert!(level.is_supported(), "this machine has no {level:?}");
        Self { threads, level }
    }

    /// Threads that take part in an op, the caller included.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The instruction set the ops use.
    pub fn level(&self) -> Level {
        self.level
    }
}

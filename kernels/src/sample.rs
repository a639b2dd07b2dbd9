//! Reading a row of logits: the best, the best few, the log of the sum of exponentials.
//!
//! These work on the caller's thread, so that rows can be shared out over threads. Each takes the
//! [`Level`] first and panics when the machine has it not.

use crate::Level;
use crate::simd::{Kernel, LANES, Simd, math, vectorize};
use std::cmp::Ordering;

/// The index and value of the largest logit, ties to the lowest index. `None` when the row is
/// empty or a value is not finite.
pub fn argmax(level: Level, logits: &[f32]) -> Option<(u32, f32)> {
    check(level);
    let (max, finite) = vectorize(level, Largest { logits });
    if !finite {
        return None;
    }
    // Equal by comparison: zeros of both signs are ties.
    let index = logits.iter().position(|&logit| logit >= max)?;
    Some((index as u32, logits[index]))
}

/// `ln(sum(exp(logits)))`; minus infinity for an empty row.
pub fn log_sum_exp(level: Level, logits: &[f32]) -> f32 {
    check(level);
    let (max, _) = vectorize(level, Largest { logits });
    if !max.is_finite() {
        return max;
    }
    max + vectorize(level, SumExp { logits, max }).ln()
}

/// Fills `best` with the `k` largest logits and their indices, best first, ties to the lowest
/// index. Minus infinity (a forbidden token) and what is not a number are left out.
pub fn top_k(level: Level, logits: &[f32], k: usize, best: &mut Vec<(u32, f32)>) {
    check(level);
    best.clear();
    if k == 0 {
        return;
    }
    // Candidates gather up to twice `k`, then the better half stays and sets the bar.
    let most = k.saturating_mul(2).max(BLOCK);
    let mut bar = f32::NEG_INFINITY;
    for (block, logits) in logits.chunks(BLOCK).enumerate() {
        let (max, _) = vectorize(level, Largest { logits });
        if max <= bar {
            continue;
        }
        let indices = (block * BLOCK) as u32..;
        best.extend(
            indices
                .zip(logits.iter().copied())
                .filter(|&(_, logit)| logit > bar),
        );
        if best.len() >= most {
            keep(best, k);
            bar = best
                .iter()
                .map(|&(_, logit)| logit)
                .fold(f32::INFINITY, f32::min);
        }
    }
    keep(best, k);
    best.sort_unstable_by(|a, b| before(*a, *b));
}

/// How [`scale`] changes logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Subtracted first: the largest logit.
    pub best: f32,
    /// Then multiplied by; finite.
    pub factor: f32,
    /// What is below becomes this.
    pub floor: f32,
}

/// Overwrites `out` with `max((logit - best) * factor, floor)` for each logit.
pub fn scale(level: Level, logits: &[f32], by: Scale, out: &mut Vec<f32>) {
    check(level);
    out.resize(logits.len(), 0.0);
    vectorize(level, Scaled { logits, by, out });
}

/// The kernels are for machines that have their instructions.
fn check(level: Level) {
    assert!(level.is_supported(), "this machine has no {level:?}");
}

fn keep(best: &mut Vec<(u32, f32)>, k: usize) {
    if best.len() > k {
        best.select_nth_unstable_by(k - 1, |a, b| before(*a, *b));
        best.truncate(k);
    }
}

fn before(a: (u32, f32), b: (u32, f32)) -> Ordering {
    b.1.partial_cmp(&a.1)
        .unwrap_or(Ordering::Equal)
        .then(a.0.cmp(&b.0))
}

/// The largest number, and whether all values are finite.
struct Largest<'a> {
    logits: &'a [f32],
}

impl Kernel for Largest<'_> {
    type Output = (f32, bool);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (f32, bool) {
        let lowest = simd.splat(f32::NEG_INFINITY);
        let zero = simd.splat(0.0);
        let (mut max, mut trace) = ([lowest; 4], [zero; 4]);
        let mut chunks = self.logits.chunks_exact(4 * LANES);
        for chunk in &mut chunks {
            for (i, x) in chunk.chunks_exact(LANES).enumerate() {
                let x = simd.load_slice(x);
                max[i] = simd.max(x, max[i]);
                // Zero times a finite number is zero; times any other it is not a number.
                trace[i] = simd.fma(x, zero, trace[i]);
            }
        }
        let max = simd.max(simd.max(max[0], max[1]), simd.max(max[2], max[3]));
        let trace = simd.add(simd.add(trace[0], trace[1]), simd.add(trace[2], trace[3]));
        let (mut max, mut finite) = (simd.largest(max), simd.sum(trace).is_finite());
        for &x in chunks.remainder() {
            max = if x > max { x } else { max };
            finite &= x.is_finite();
        }
        (max, finite)
    }
}

/// The scaled row.
struct Scaled<'a> {
    logits: &'a [f32],
    by: Scale,
    out: &'a mut [f32],
}

impl Kernel for Scaled<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (best, factor) = (simd.splat(self.by.best), simd.splat(self.by.factor));
        let floor = simd.splat(self.by.floor);
        for (out, x) in self.out.chunks_mut(LANES).zip(self.logits.chunks(LANES)) {
            let scaled = simd.mul(simd.sub(simd.load_slice(x), best), factor);
            simd.store_slice(out, simd.max(scaled, floor));
        }
    }
}

/// The sum of `exp(logit - max)`.
struct SumExp<'a> {
    logits: &'a [f32],
    max: f32,
}

impl Kernel for SumExp<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let max = simd.splat(self.max);
        let mut sums = [simd.splat(0.0); 4];
        let mut chunks = self.logits.chunks_exact(4 * LANES);
        for chunk in &mut chunks {
            for (sum, x) in sums.iter_mut().zip(chunk.chunks_exact(LANES)) {
                let term = math::exp(simd, simd.sub(simd.load_slice(x), max));
                *sum = simd.add(*sum, term);
            }
        }
        for (sum, x) in sums.iter_mut().zip(chunks.remainder().chunks(LANES)) {
            let mut lanes = [f32::NEG_INFINITY; LANES];
            lanes[..x.len()].copy_from_slice(x);
            let term = math::exp(simd, simd.sub(simd.load_array(&lanes), max));
            *sum = simd.add(*sum, term);
        }
        simd.sum(simd.add(simd.add(sums[0], sums[1]), simd.add(sums[2], sums[3])))
    }
}

// A block is skipped when its largest value is no candidate.
const BLOCK: usize = 512;

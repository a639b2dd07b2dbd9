//! Root-mean-square and layer normalisation, with and without the residual sum before them.

#![expect(unsafe_code, reason = "threads write to one slice")]

use crate::shared::SharedMut;
use crate::simd::{Kernel, LANES, Simd, vectorize};
use crate::{Compute, Level, RowsMut};

/// Weights of a root-mean-square norm: `x / sqrt(mean(x^2) + eps) * weight`.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm<'a> {
    /// One factor per element; its length is the width of a row.
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
}

/// Weights of a layer norm: `(x - mean) / sqrt(variance + eps) * weight + bias`.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// One factor per element; its length is the width of a row.
    pub weight: &'a [f32],
    /// One summand per element.
    pub bias: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
}

/// Either kind of norm.
pub trait Norm: Sync {
    /// Elements of a row.
    fn width(&self) -> usize;

    /// Norms one row, in place.
    fn apply(&self, level: Level, row: &mut [f32]);
}

impl Norm for RmsNorm<'_> {
    fn width(&self) -> usize {
        self.weight.len()
    }

    fn apply(&self, level: Level, row: &mut [f32]) {
        vectorize(level, Rms { norm: self, row });
    }
}

impl Norm for LayerNorm<'_> {
    fn width(&self) -> usize {
        assert_eq!(self.bias.len(), self.weight.len(), "bias beside weight");
        self.weight.len()
    }

    fn apply(&self, level: Level, row: &mut [f32]) {
        vectorize(level, Layer { norm: self, row });
    }
}

/// `out = norm(x)`, row by row.
pub fn normalize(compute: &mut Compute, x: &[f32], norm: &impl Norm, out: &mut [f32]) {
    let width = norm.width();
    check(x.len(), out.len(), width);
    let level = compute.level();
    let out = SharedMut::new(out);
    compute.run_chunks(x.len() / width, 2 * width, &|rows| {
        for row in rows {
            let columns = row * width..(row + 1) * width;
            // SAFETY: each row belongs to one task.
            let out = unsafe { out.slice(columns.clone()) };
            out.copy_from_slice(&x[columns]);
            norm.apply(level, out);
        }
    });
}

/// `residual += x; out = norm(residual)`, row by row: the order of networks that norm before a
/// block.
pub fn add_normalize(
    compute: &mut Compute,
    residual: &mut [f32],
    x: &[f32],
    norm: &impl Norm,
    out: &mut [f32],
) {
    let width = norm.width();
    check(x.len(), out.len(), width);
    check(x.len(), residual.len(), width);
    let level = compute.level();
    let (residual, out) = (SharedMut::new(residual), SharedMut::new(out));
    compute.run_chunks(x.len() / width, 2 * width, &|rows| {
        for row in rows {
            let columns = row * width..(row + 1) * width;
            // SAFETY: each row belongs to one task.
            let to = unsafe { residual.slice(columns.clone()) };
            // SAFETY: each row belongs to one task.
            let out = unsafe { out.slice(columns.clone()) };
            let x = &x[columns];
            vectorize(level, Add { to, x });
            out.copy_from_slice(to);
            norm.apply(level, out);
        }
    });
}

/// `residual = norm(residual + x)`, row by row: the order of BERT.
pub fn normalize_sum(compute: &mut Compute, residual: &mut [f32], x: &[f32], norm: &impl Norm) {
    let width = norm.width();
    check(x.len(), residual.len(), width);
    let level = compute.level();
    let residual = SharedMut::new(residual);
    compute.run_chunks(x.len() / width, 2 * width, &|rows| {
        for row in rows {
            let columns = row * width..(row + 1) * width;
            // SAFETY: each row belongs to one task.
            let to = unsafe { residual.slice(columns.clone()) };
            let x = &x[columns];
            vectorize(level, Add { to, x });
            norm.apply(level, to);
        }
    });
}

/// Norm of each head of `norm.width()` elements inside the rows, in place.
pub fn normalize_heads(compute: &mut Compute, x: &mut RowsMut<'_>, norm: &impl Norm) {
    let head_dim = norm.width();
    assert!(
        head_dim > 0 && x.width().is_multiple_of(head_dim),
        "heads in rows of {}",
        x.width()
    );
    let level = compute.level();
    let (x, span) = x.parts();
    let x = SharedMut::new(x);
    compute.run_chunks(span.rows, span.width, &|rows| {
        for row in rows {
            // SAFETY: each row belongs to one task.
            let row = unsafe { x.slice(span.range(row)) };
            for head in row.chunks_exact_mut(head_dim) {
                norm.apply(level, head);
            }
        }
    });
}

fn check(x: usize, other: usize, width: usize) {
    assert!(
        width > 0 && x.is_multiple_of(width),
        "{x} elements are no rows of {width}"
    );
    assert_eq!(x, other, "elements of the operands");
}

/// `to += x`.
struct Add<'a> {
    to: &'a mut [f32],
    x: &'a [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (to, x) in self.to.chunks_mut(LANES).zip(self.x.chunks(LANES)) {
            let sum = simd.add(simd.load_slice(to), simd.load_slice(x));
            simd.store_slice(to, sum);
        }
    }
}

/// Root-mean-square norm of one row in place.
struct Rms<'a, 'w> {
    norm: &'a RmsNorm<'w>,
    row: &'a mut [f32],
}

impl Kernel for Rms<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let squares = sum_of(simd, self.row, |x| simd.mul(x, x));
        let mean = squares / self.row.len() as f32;
        let factor = simd.splat(1.0 / (mean + self.norm.eps).sqrt());
        for (x, weight) in self
            .row
            .chunks_mut(LANES)
            .zip(self.norm.weight.chunks(LANES))
        {
            let scaled = simd.mul(simd.load_slice(x), factor);
            simd.store_slice(x, simd.mul(scaled, simd.load_slice(weight)));
        }
    }
}

/// Layer norm of one row in place.
struct Layer<'a, 'w> {
    norm: &'a LayerNorm<'w>,
    row: &'a mut [f32],
}

impl Kernel for Layer<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let count = self.row.len() as f32;
        let mean = simd.splat(sum_of(simd, self.row, |x| x) / count);
        // Zeros beyond a row's end must not count as `-mean`.
        for x in self.row.chunks_mut(LANES) {
            let centred = simd.sub(simd.load_slice(x), mean);
            simd.store_slice(x, centred);
        }
        let variance = sum_of(simd, self.row, |x| simd.mul(x, x)) / count;
        let factor = simd.splat(1.0 / (variance + self.norm.eps).sqrt());
        let weights = self
            .norm
            .weight
            .chunks(LANES)
            .zip(self.norm.bias.chunks(LANES));
        for (x, (weight, bias)) in self.row.chunks_mut(LANES).zip(weights) {
            let scaled = simd.mul(simd.load_slice(x), factor);
            let out = simd.fma(scaled, simd.load_slice(weight), simd.load_slice(bias));
            simd.store_slice(x, out);
        }
    }
}

/// Sum of `term` over a row, in four vectors at once; `term(0)` must be 0.
#[inline(always)]
fn sum_of<S: Simd>(simd: S, row: &[f32], term: impl Fn(S::F) -> S::F) -> f32 {
    let mut sums = [simd.splat(0.0); 4];
    let mut chunks = row.chunks_exact(4 * LANES);
    for chunk in &mut chunks {
        for (sum, x) in sums.iter_mut().zip(chunk.chunks_exact(LANES)) {
            *sum = simd.add(*sum, term(simd.load_slice(x)));
        }
    }
    for (sum, x) in sums.iter_mut().zip(chunks.remainder().chunks(LANES)) {
        *sum = simd.add(*sum, term(simd.load_slice(x)));
    }
    simd.sum(simd.add(simd.add(sums[0], sums[1]), simd.add(sums[2], sums[3])))
}

//! How stored weights meet activations in one step of a dot product.
#![expect(unsafe_code, reason = "vector instructions")]

use super::{LANES, Simd};

/// One step of sixteen dot products: one or two inputs against sixteen stored lanes.
pub(crate) trait Format<S: Simd> {
    /// One stored lane: one or two weights.
    type Stored: Copy;
    /// As many activations, as the step wants them.
    type Input: Copy;
    /// Sixteen lanes in registers.
    type Loaded: Copy;

    /// Writes `x` as inputs of one or two elements, `stride` apart, with a zero at an odd end.
    ///
    /// # Safety
    /// Every place can be written.
    unsafe fn pack(simd: S, x: &[f32], to: *mut Self::Input, stride: usize);
    /// # Safety
    /// Sixteen lanes can be read at `from`.
    unsafe fn load(simd: S, from: *const Self::Stored) -> Self::Loaded;
    /// `sum` plus the products of the lanes with one input.
    fn step(simd: S, sum: S::F, weights: Self::Loaded, input: Self::Input) -> S::F;
}

/// Weights in f32.
#[derive(Clone, Copy, Debug)]
pub(crate) struct F32Lanes;

impl<S: Simd> Format<S> for F32Lanes {
    type Stored = f32;
    type Input = f32;
    type Loaded = S::F;

    #[inline(always)]
    unsafe fn pack(simd: S, x: &[f32], to: *mut f32, stride: usize) {
        if stride == 1 {
            let mut chunks = x.chunks_exact(LANES);
            let mut done = 0;
            for chunk in &mut chunks {
                // SAFETY: the caller lets us write `x.len()` values one apart.
                unsafe { simd.store(to.add(done), simd.load_slice(chunk)) };
                done += LANES;
            }
            for (i, &value) in chunks.remainder().iter().enumerate() {
                // SAFETY: these are the last of the `x.len()` values one apart.
                unsafe { *to.add(done + i) = value };
            }
            return;
        }
        for (i, &value) in x.iter().enumerate() {
            // SAFETY: the caller lets us write `x.len()` values `stride` apart.
            unsafe { *to.add(i * stride) = value };
        }
    }

    #[inline(always)]
    unsafe fn load(simd: S, from: *const f32) -> S::F {
        // SAFETY: the caller promises that sixteen lanes can be read at `from`.
        unsafe { simd.load(from) }
    }

    #[inline(always)]
    fn step(simd: S, sum: S::F, weights: S::F, input: f32) -> S::F {
        simd.fma(weights, simd.splat(input), sum)
    }
}

/// Weights in pairs of bf16, widened to f32 on the way: for machines without bf16 dot products.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bf16Wide;

impl<S: Simd> Format<S> for Bf16Wide {
    type Stored = u32;
    type Input = [f32; 2];
    type Loaded = (S::F, S::F);

    #[inline(always)]
    unsafe fn pack(_: S, x: &[f32], to: *mut [f32; 2], stride: usize) {
        for (i, pair) in x.chunks(2).enumerate() {
            let high = pair.get(1).copied().unwrap_or(0.0);
            // SAFETY: the caller lets us write half as many pairs `stride` apart.
            unsafe { *to.add(i * stride) = [pair[0], high] };
        }
    }

    #[inline(always)]
    unsafe fn load(simd: S, from: *const u32) -> (S::F, S::F) {
        // SAFETY: the caller promises that sixteen lanes can be read at `from`.
        unsafe { simd.widen_pairs(from) }
    }

    #[inline(always)]
    fn step(simd: S, sum: S::F, (low, high): (S::F, S::F), input: [f32; 2]) -> S::F {
        let sum = simd.fma(low, simd.splat(input[0]), sum);
        simd.fma(high, simd.splat(input[1]), sum)
    }
}

//! Vectors of sixteen floats on every instruction set, and the one place that chooses between them.
//!
//! A kernel is written once, generic over [`Simd`]; [`vectorize`] runs it with the instruction set
//! of a [`Level`]. Everything on the way is `inline(always)`, so that the whole kernel is compiled
//! with the features of the entry function.
#![expect(unsafe_code, reason = "vector instructions")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod format;
pub(crate) mod math;
mod portable;

use crate::Level;
pub(crate) use format::{Bf16Wide, F32Lanes, Format};

/// Floats of a vector.
pub(crate) const LANES: usize = 16;

/// Operations on vectors of [`LANES`] floats. A value proves that the instructions exist.
pub(crate) trait Simd: Copy {
    /// Sixteen floats.
    type F: Copy;
    /// How bf16 weights meet activations.
    type Bf16: Format<Self, Stored = u32>;
    /// Whether there are registers for a tile of sixteen accumulators and their operands.
    const WIDE: bool;

    fn splat(self, value: f32) -> Self::F;
    /// # Safety
    /// Sixteen floats can be read at `from`.
    unsafe fn load(self, from: *const f32) -> Self::F;
    /// # Safety
    /// Sixteen floats can be written at `to`.
    unsafe fn store(self, to: *mut f32, value: Self::F);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once where the machine can.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a > b ? a : b`: `b` when either is not a number.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a < b ? a : b`: `b` when either is not a number.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// The nearest whole number, for absolute values below 2^22.
    fn round(self, a: Self::F) -> Self::F;
    /// `2^n` for whole `n` in `-127..=127`, 0 for -127.
    fn power_of_two(self, n: Self::F) -> Self::F;
    /// `x < 0 ? negative : other`, lane by lane.
    fn select_negative(self, x: Self::F, negative: Self::F, other: Self::F) -> Self::F;
    /// The sixteen pairs `(low, high)` of bf16 at `from`, widened.
    ///
    /// # Safety
    /// Sixteen values can be read at `from`.
    unsafe fn widen_pairs(self, from: *const u32) -> (Self::F, Self::F);

    /// Up to sixteen floats, zeros above.
    #[inline(always)]
    fn load_slice(self, from: &[f32]) -> Self::F {
        if from.len() >= LANES {
            // SAFETY: the slice holds at least sixteen floats.
            return unsafe { self.load(from.as_ptr()) };
        }
        let mut lanes = [0.0; LANES];
        lanes[..from.len()].copy_from_slice(from);
        self.load_array(&lanes)
    }

    /// The first floats of `value`, as many as fit in `to`, at most sixteen.
    #[inline(always)]
    fn store_slice(self, to: &mut [f32], value: Self::F) {
        if to.len() >= LANES {
            // SAFETY: the slice holds at least sixteen floats.
            unsafe { self.store(to.as_mut_ptr(), value) };
            return;
        }
        let lanes = self.to_array(value);
        to.copy_from_slice(&lanes[..to.len()]);
    }

    #[inline(always)]
    fn load_array(self, from: &[f32; LANES]) -> Self::F {
        // SAFETY: the array holds sixteen floats.
        unsafe { self.load(from.as_ptr()) }
    }

    #[inline(always)]
    fn to_array(self, value: Self::F) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        // SAFETY: the array holds sixteen floats.
        unsafe { self.store(lanes.as_mut_ptr(), value) };
        lanes
    }

    /// Sum of the lanes, by halves.
    #[inline(always)]
    fn sum(self, value: Self::F) -> f32 {
        let a = self.to_array(value);
        let b: [f32; 8] = std::array::from_fn(|i| a[i] + a[i + 8]);
        let c: [f32; 4] = std::array::from_fn(|i| b[i] + b[i + 4]);
        (c[0] + c[2]) + (c[1] + c[3])
    }

    /// The largest lane.
    #[inline(always)]
    fn largest(self, value: Self::F) -> f32 {
        let a = self.to_array(value);
        let b: [f32; 8] = std::array::from_fn(|i| larger(a[i], a[i + 8]));
        let c: [f32; 4] = std::array::from_fn(|i| larger(b[i], b[i + 4]));
        larger(larger(c[0], c[2]), larger(c[1], c[3]))
    }
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Asks for the cache line at `address`, which need not exist, without waiting for it.
#[inline(always)]
pub(crate) fn prefetch<T>(address: *const T) {
    // SAFETY: a prefetch never faults, and every x86-64 has it.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// A computation written once for all instruction sets.
pub(crate) trait Kernel {
    type Output;
    /// Runs with `simd`; must be `inline(always)`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs `kernel` with the instruction set of `level`.
#[inline]
pub(crate) fn vectorize<K: Kernel>(level: Level, kernel: K) -> K::Output {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Bf16 => {
            debug_assert!(level.is_supported());
            // SAFETY: a `Compute` is only built for a level that the machine supports.
            unsafe { avx512::enter_bf16(kernel) }
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => {
            debug_assert!(level.is_supported());
            // SAFETY: a `Compute` is only built for a level that the machine supports.
            unsafe { avx512::enter(kernel) }
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => {
            debug_assert!(level.is_supported());
            // SAFETY: a `Compute` is only built for a level that the machine supports.
            unsafe { avx2::enter(kernel) }
        }
        _ => kernel.run(portable::Portable),
    }
}

/// The best instruction set of this machine.
pub(crate) fn detect() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let avx2 = has!("avx2") && has!("fma");
        let avx512 =
            avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
        if avx512 && has!("avx512bf16") {
            return Level::Avx512Bf16;
        }
        if avx512 {
            return Level::Avx512;
        }
        if avx2 {
            return Level::Avx2;
        }
    }
    Level::Portable
}

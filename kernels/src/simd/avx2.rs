//! Sixteen floats in two AVX2 registers.

#![expect(unsafe_code, reason = "vector instructions")]
#![cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "one name per instruction")
)]

use super::{Bf16Wide, Kernel, Simd};
use std::arch::x86_64::*;

/// AVX2 and FMA.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2 {
    _proof: (),
}

/// Runs `kernel` with AVX2.
///
/// # Safety
/// The machine has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2 { _proof: () })
}

/// Both halves of an operation. A closure or `map` here would not be compiled with the features.
macro_rules! halves {
    ($op:expr, $($operand:expr),+) => {
        // SAFETY: an `Avx2` exists only where the machine has AVX2 and FMA.
        unsafe { [$op($($operand[0]),+), $op($($operand[1]),+)] }
    };
}

impl Simd for Avx2 {
    type F = [__m256; 2];
    type Bf16 = Bf16Wide;
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        // SAFETY: an `Avx2` exists only where the machine has AVX2 and FMA.
        unsafe { [_mm256_set1_ps(value); 2] }
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F {
        // SAFETY: an `Avx2` exists only where the machine has AVX2 and FMA, and the caller
        // promises that sixteen values can be read at `from`.
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: Self::F) {
        // SAFETY: an `Avx2` exists only where the machine has AVX2 and FMA, and the caller
        // promises that sixteen floats can be written at `to`.
        unsafe {
            _mm256_storeu_ps(to, value[0]);
            _mm256_storeu_ps(to.add(8), value[1]);
        }
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        halves!(_mm256_add_ps, a, b)
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        halves!(_mm256_sub_ps, a, b)
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        halves!(_mm256_mul_ps, a, b)
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        halves!(_mm256_div_ps, a, b)
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        halves!(_mm256_fmadd_ps, a, b, c)
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        halves!(_mm256_max_ps, a, b)
    }

    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        halves!(_mm256_min_ps, a, b)
    }

    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        halves!(
            _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>,
            a
        )
    }

    #[inline(always)]
    fn power_of_two(self, n: Self::F) -> Self::F {
        // SAFETY: an `Avx2` exists only where the machine has AVX2 and FMA.
        let bias = unsafe { [_mm256_set1_epi32(127); 2] };
        let n = halves!(_mm256_cvtps_epi32, n);
        let biased = halves!(_mm256_add_epi32, n, bias);
        let shifted = halves!(_mm256_slli_epi32::<23>, biased);
        halves!(_mm256_castsi256_ps, shifted)
    }

    #[inline(always)]
    fn select_negative(self, x: Self::F, negative: Self::F, other: Self::F) -> Self::F {
        // SAFETY: an `Avx2` exists only where the machine has AVX2 and FMA.
        let zero = unsafe { [_mm256_setzero_ps(); 2] };
        let below = halves!(_mm256_cmp_ps::<_CMP_LT_OQ>, x, zero);
        halves!(_mm256_blendv_ps, other, negative, below)
    }

    #[inline(always)]
    unsafe fn widen_pairs(self, from: *const u32) -> (Self::F, Self::F) {
        // SAFETY: an `Avx2` exists only where the machine has AVX2 and FMA, and the caller
        // promises that sixteen values can be read at `from`.
        let (pairs, mask) = unsafe {
            let halves = [from, from.add(8)];
            let mask = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            (
                [
                    _mm256_loadu_si256(halves[0].cast()),
                    _mm256_loadu_si256(halves[1].cast()),
                ],
                mask,
            )
        };
        let low = halves!(_mm256_slli_epi32::<16>, pairs);
        let high = halves!(_mm256_and_si256, pairs, [mask; 2]);
        (
            halves!(_mm256_castsi256_ps, low),
            halves!(_mm256_castsi256_ps, high),
        )
    }
}

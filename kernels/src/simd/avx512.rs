//! Sixteen floats in one AVX-512 register, with and without bf16 dot products.

#![expect(unsafe_code, reason = "vector instructions")]
#![cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "one name per instruction")
)]

use super::{Bf16Wide, Format, Kernel, LANES, Simd};
use half::bf16;
use std::arch::x86_64::*;
use std::mem::transmute;

/// AVX-512 F, BW, DQ and VL; with `BF16` also its bf16 dot products.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512<const BF16: bool> {
    _proof: (),
}

/// Runs `kernel` with AVX-512.
///
/// # Safety
/// The machine has AVX-512 F, BW, DQ and VL, AVX2 and FMA.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<false> { _proof: () })
}

/// Runs `kernel` with AVX-512 and bf16 dot products.
///
/// # Safety
/// The machine has AVX-512 F, BW, DQ, VL and BF16, AVX2 and FMA.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn enter_bf16<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<true> { _proof: () })
}

/// Weights in pairs of bf16 against activations rounded to pairs of bf16.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bf16Dot;

macro_rules! simd_avx512 {
    ($bf16:literal, $format:ty) => {
        // An `Avx512` exists only inside the entry functions, whose callers promise that the machine
        // has the features.
        impl Simd for Avx512<$bf16> {
            type F = __m512;
            type Bf16 = $format;
            const WIDE: bool = true;

            #[inline(always)]
            fn splat(self, value: f32) -> Self::F {
                // SAFETY: an `Avx512` exists only where the machine has the features.
                unsafe { _mm512_set1_ps(value) }
            }

            #[inline(always)]
            unsafe fn load(self, from: *const f32) -> Self::F {
                // SAFETY: an `Avx512` exists only where the machine has the features, and the caller
                // promises that sixteen values can be read at `from`.
                unsafe { _mm512_loadu_ps(from) }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32, value: Self::F) {
                // SAFETY: an `Avx512` exists only where the machine has the features, and the caller
                // promises that sixteen floats can be written at `to`.
                unsafe { _mm512_storeu_ps(to, value) };
            }

            #[inline(always)]
            fn add(self, a: Self::F, b: Self::F) -> Self::F {
                // SAFETY: an `Avx512` exists only where the machine has the features.
                unsafe { _mm512_add_ps(a, b) }
            }

            #[inline(always)]
            fn sub(self, a: Self::F, b: Self::F) -> Self::F {
                // SAFETY: an `Avx512` exists only where the machine has the features.
                unsafe { _mm512_sub_ps(a, b) }
            }

            #[inline(always)]
            fn mul(self, a: Self::F, b: Self::F) -> Self::F {
                // SAFETY: an `Avx512` exists only where the machine has the features.
                unsafe { _mm512_mul_ps(a, b) }
            }

            #[inline(always)]
            fn div(self, a: Self::F, b: Self::F) -> Self::F {
                // SAFETY: an `Avx512` exists only where the machine has the features.
                unsafe { _mm512_div_ps(a, b) }
            }

            #[inline(always)]
            fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
                // SAFETY: an `Avx512` exists only where the machine has the features.
                unsafe { _mm512_fmadd_ps(a, b, c) }
            }

            #[inline(always)]
            fn max(self, a: Self::F, b: Self::F) -> Self::F {
                // SAFETY: an `Avx512` exists only where the machine has the features.
                unsafe { _mm512_max_ps(a, b) }
            }

            #[inline(always)]
            fn min(self, a: Self::F, b: Self::F) -> Self::F {
                // SAFETY: an `Avx512` exists only where the machine has the features.
                unsafe { _mm512_min_ps(a, b) }
            }

            #[inline(always)]
            fn round(self, a: Self::F) -> Self::F {
                // SAFETY: an `Avx512` exists only where the machine has the features.
                unsafe { _mm512_roundscale_ps::<0>(a) }
            }

            #[inline(always)]
            fn power_of_two(self, n: Self::F) -> Self::F {
                // SAFETY: an `Avx512` exists only where the machine has the features.
                unsafe {
                    let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
                }
            }

            #[inline(always)]
            fn select_negative(self, x: Self::F, negative: Self::F, other: Self::F) -> Self::F {
                // SAFETY: an `Avx512` exists only where the machine has the features.
                unsafe {
                    let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, _mm512_setzero_ps());
                    _mm512_mask_blend_ps(below, other, negative)
                }
            }

            #[inline(always)]
            unsafe fn widen_pairs(self, from: *const u32) -> (Self::F, Self::F) {
                // SAFETY: an `Avx512` exists only where the machine has the features, and the caller
                // promises that sixteen values can be read at `from`.
                unsafe {
                    let pairs = _mm512_loadu_si512(from.cast());
                    let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
                    (
                        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)),
                        _mm512_castsi512_ps(_mm512_and_si512(pairs, high)),
                    )
                }
            }
        }
    };
}

simd_avx512!(false, Bf16Wide);
simd_avx512!(true, Bf16Dot);

impl Format<Avx512<true>> for Bf16Dot {
    type Stored = u32;
    type Input = u32;
    type Loaded = __m512i;

    #[inline(always)]
    unsafe fn pack(_: Avx512<true>, x: &[f32], to: *mut u32, stride: usize) {
        let mut chunks = x.chunks_exact(2 * LANES);
        let mut to = to;
        for chunk in &mut chunks {
            // SAFETY: the chunk holds 32 floats; the features exist because the proof was passed;
            // the caller lets us write a pair for every two inputs.
            unsafe {
                let low = _mm512_loadu_ps(chunk.as_ptr());
                let high = _mm512_loadu_ps(chunk.as_ptr().add(LANES));
                let pairs: __m512i = transmute(_mm512_cvtne2ps_pbh(high, low));
                if stride == 1 {
                    _mm512_storeu_si512(to.cast(), pairs);
                } else {
                    let pairs: [u32; LANES] = transmute(pairs);
                    for (i, pair) in pairs.into_iter().enumerate() {
                        *to.add(i * stride) = pair;
                    }
                }
                to = to.add(LANES * stride);
            }
        }
        for (i, pair) in chunks.remainder().chunks(2).enumerate() {
            let bits = |x: f32| u32::from(bf16::from_f32(x).to_bits());
            let high = pair.get(1).map_or(0, |&x| bits(x));
            // SAFETY: the caller lets us write a pair for every two inputs.
            unsafe { *to.add(i * stride) = bits(pair[0]) | high << 16 };
        }
    }

    #[inline(always)]
    unsafe fn load(_: Avx512<true>, from: *const u32) -> __m512i {
        // SAFETY: the caller promises that sixteen pairs can be read at `from`; the features exist
        // because the proof was passed.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    fn step(_: Avx512<true>, sum: __m512, weights: __m512i, input: u32) -> __m512 {
        // SAFETY: the features exist because the proof was passed; a vector of integers and one of
        // bf16 have the same size and no invalid bits.
        unsafe {
            let input: __m512bh = transmute(_mm512_set1_epi32(input as i32));
            _mm512_dpbf16_ps(sum, transmute::<__m512i, __m512bh>(weights), input)
        }
    }
}

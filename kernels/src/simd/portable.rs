//! Sixteen floats in plain Rust.
#![expect(unsafe_code, reason = "vector instructions")]

use super::{Bf16Wide, LANES, Simd};

/// Any machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    type F = [f32; LANES];
    type Bf16 = Bf16Wide;
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F {
        // SAFETY: the caller promises that sixteen floats can be read at `from`; an array of them
        // needs no more alignment.
        unsafe { from.cast::<[f32; LANES]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: Self::F) {
        // SAFETY: the caller promises that sixteen floats can be written at `to`; an array of them
        // needs no more alignment.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(value) };
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a / b)
    }

    // `mul_add` would be a library call on a machine without the instruction.
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    // Adding 1.5 * 2^23 pushes the fraction out of the significand.
    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        a.map(|a| (a + 12_582_912.0) - 12_582_912.0)
    }

    #[inline(always)]
    fn power_of_two(self, n: Self::F) -> Self::F {
        n.map(|n| f32::from_bits((n as i32 + 127) as u32 * (1 << 23)))
    }

    #[inline(always)]
    fn select_negative(self, x: Self::F, negative: Self::F, other: Self::F) -> Self::F {
        std::array::from_fn(|i| if x[i] < 0.0 { negative[i] } else { other[i] })
    }

    #[inline(always)]
    unsafe fn widen_pairs(self, from: *const u32) -> (Self::F, Self::F) {
        // SAFETY: the caller promises that sixteen values can be read at `from`.
        let pairs = unsafe { from.cast::<[u32; LANES]>().read_unaligned() };
        (
            pairs.map(|pair| f32::from_bits(pair << 16)),
            pairs.map(|pair| f32::from_bits(pair & 0xffff_0000)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_the_nearest() {
        let rounded = Portable.round(Portable.splat(-2.7));
        assert!(rounded.iter().all(|x| (x + 3.0).abs() < f32::EPSILON));
    }
}

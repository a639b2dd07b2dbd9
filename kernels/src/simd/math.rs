//! Exponentials and the error function on vectors, good to about 1e-7 of the value.
//!
//! The polynomials are minimax fits of relative error, found by Remez exchange.

use super::Simd;
use std::f32::consts::{FRAC_1_SQRT_2, LN_2, LOG2_E};

/// `2^x`; 0 below `2^-126.5`, held at `2^127` above. Exactly 1 at 0.
#[inline(always)]
pub(crate) fn exp2<S: Simd>(simd: S, x: S::F) -> S::F {
    // The limit comes first, so that what is not a number stays so.
    let x = simd.min(simd.splat(127.0), simd.max(simd.splat(-127.0), x));
    let whole = simd.round(x);
    let fraction = simd.sub(x, whole);
    let sum = polynomial(simd, fraction, &EXP2);
    simd.mul(
        simd.fma(sum, fraction, simd.splat(1.0)),
        simd.power_of_two(whole),
    )
}

/// `e^x`; 0 below -87.7, held at about `2^127` above 88.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::F) -> S::F {
    let x = simd.min(simd.splat(88.0), simd.max(simd.splat(-88.0), x));
    let whole = simd.round(simd.mul(x, simd.splat(LOG2_E)));
    // ln 2 in two parts: the first has so few bits that its product with `whole` is exact.
    let rest = simd.fma(whole, simd.splat(-0.693_359_4), x);
    let rest = simd.fma(whole, simd.splat(2.121_944_4e-4), rest);
    let sum = polynomial(simd, rest, &EXP);
    let sum = simd.fma(sum, simd.mul(rest, rest), simd.add(rest, simd.splat(1.0)));
    simd.mul(sum, simd.power_of_two(whole))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(simd: S, x: S::F) -> S::F {
    let one = simd.splat(1.0);
    let negative = simd.sub(simd.splat(0.0), x);
    simd.div(one, simd.add(one, exp(simd, negative)))
}

/// `tanh(x)`, good to 1e-7 absolutely.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(simd: S, x: S::F) -> S::F {
    let twice = sigmoid(simd, simd.add(x, x));
    simd.fma(twice, simd.splat(2.0), simd.splat(-1.0))
}

/// The normal distribution up to `x`: `(1 + erf(x / sqrt 2)) / 2`.
#[inline(always)]
pub(crate) fn normal<S: Simd>(simd: S, x: S::F) -> S::F {
    let (zero, one) = (simd.splat(0.0), simd.splat(1.0));
    let a = simd.mul(x, simd.splat(FRAC_1_SQRT_2));
    let a = simd.max(simd.sub(zero, a), a);
    // erfc(a) = t Q(t) exp(-a^2) with t = 1 / (1 + 0.35 a).
    let t = simd.div(one, simd.fma(a, simd.splat(0.35), one));
    let tail = simd.mul(polynomial(simd, t, &ERFC), t);
    // The square in two parts, because its error would be multiplied by its size.
    let square = simd.mul(x, x);
    let error = simd.fma(x, x, simd.sub(zero, square));
    let density = exp(simd, simd.mul(square, simd.splat(-0.5)));
    let density = simd.fma(density, simd.mul(error, simd.splat(-0.5)), density);
    let half = simd.mul(simd.mul(tail, density), simd.splat(0.5));
    simd.select_negative(x, half, simd.sub(one, half))
}

/// `coefficients[0] + coefficients[1] x + ...`
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(simd: S, x: S::F, coefficients: &[f32; N]) -> S::F {
    let mut sum = simd.splat(coefficients[N - 1]);
    for &coefficient in coefficients[..N - 1].iter().rev() {
        sum = simd.fma(sum, x, simd.splat(coefficient));
    }
    sum
}

/// `(2^x - 1) / x` on -0.5..0.5, to 2e-9.
const EXP2: [f32; 6] = [
    LN_2,
    0.240_226_48,
    0.055_503_324,
    0.009_618_437,
    0.001_339_887_4,
    0.000_153_533_62,
];

/// `(e^x - 1 - x) / x^2` on half of ln 2 to both sides, to 3e-9.
const EXP: [f32; 5] = [
    0.499_999_93,
    0.166_665_2,
    0.041_668_39,
    0.008_368_71,
    0.001_381_461_5,
];

/// `exp(a^2) erfc(a) / t` with `t = 1 / (1 + 0.35 a)` for `a` in 0..10, to 7e-9.
const ERFC: [f32; 10] = [
    0.197_483_78,
    0.197_138_35,
    0.187_902_42,
    0.151_186_13,
    0.146_042_33,
    0.087_018_535,
    -0.027_705_42,
    0.181_461_08,
    -0.158_928_23,
    0.038_401_045,
];

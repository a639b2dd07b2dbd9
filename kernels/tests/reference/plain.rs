//! The ops as their definitions say, in f64, one number after the other.

use half::bf16;
use std::ops::Range;

pub(crate) fn round(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect()
}

pub(crate) fn linear(x: &[f32], weight: &[f32], bias: Option<&[f32]>, inputs: usize) -> Vec<f64> {
    let outputs = weight.len() / inputs;
    let mut y = Vec::new();
    for x in x.chunks(inputs) {
        for (n, weight) in weight.chunks(inputs).enumerate() {
            let dot: f64 = x
                .iter()
                .zip(weight)
                .map(|(x, w)| f64::from(*x) * f64::from(*w))
                .sum();
            y.push(dot + bias.map_or(0.0, |bias| f64::from(bias[n])));
        }
    }
    assert_eq!(y.len() * inputs, x.len() * outputs);
    y
}

pub(crate) fn rms(x: &[f32], weight: &[f32], eps: f64) -> Vec<f64> {
    let mut out = Vec::new();
    for row in x.chunks(weight.len()) {
        let mean = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / row.len() as f64;
        let factor = 1.0 / (mean + eps).sqrt();
        out.extend(
            row.iter()
                .zip(weight)
                .map(|(x, w)| f64::from(*x) * factor * f64::from(*w)),
        );
    }
    out
}

pub(crate) fn layer(x: &[f32], weight: &[f32], bias: &[f32], eps: f64) -> Vec<f64> {
    let mut out = Vec::new();
    for row in x.chunks(weight.len()) {
        let count = row.len() as f64;
        let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
        let variance = row
            .iter()
            .map(|&x| (f64::from(x) - mean).powi(2))
            .sum::<f64>()
            / count;
        for ((x, weight), bias) in row.iter().zip(weight).zip(bias) {
            let scaled = (f64::from(*x) - mean) / (variance + eps).sqrt();
            out.push(scaled * f64::from(*weight) + f64::from(*bias));
        }
    }
    out
}

pub(crate) fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

pub(crate) fn gelu_tanh(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
    x / (1.0 + (-2.0 * inner).exp())
}

/// `x` times the normal distribution up to `x`, the tail by its continued fraction.
pub(crate) fn gelu_erf(x: f64) -> f64 {
    let a = x.abs();
    let density = (-a * a / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let tail = if a > 2.0 {
        let fraction = (1..=200).rev().fold(a, |below, k| a + f64::from(k) / below);
        density / fraction
    } else {
        // Half minus the series a + a^3/3 + a^5/(3*5) + ... times the density.
        let mut term = a;
        let mut sum = a;
        for k in 1..100 {
            term *= a * a / f64::from(2 * k + 1);
            sum += term;
        }
        0.5 - density * sum
    };
    if x < 0.0 { x * tail } else { x * (1.0 - tail) }
}

/// One head: weights by softmax of the scores, then the weighted mean of the values.
pub(crate) fn attend<'a>(
    q: &[f32],
    seen: Range<usize>,
    (scale, softcap): (f64, Option<f64>),
    kv: impl Fn(usize) -> (&'a [f32], &'a [f32]),
) -> Vec<f64> {
    let score = |p: usize| {
        let dot: f64 = q
            .iter()
            .zip(kv(p).0)
            .map(|(q, k)| f64::from(*q) * f64::from(*k))
            .sum();
        softcap.map_or(dot * scale, |cap| cap * (dot * scale / cap).tanh())
    };
    let scores: Vec<f64> = seen.clone().map(score).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
    let mut out = vec![0.0; kv(seen.start).1.len()];
    for (p, score) in seen.zip(scores) {
        let weight = (score - max).exp() / sum;
        for (out, v) in out.iter_mut().zip(kv(p).1) {
            *out += weight * f64::from(*v);
        }
    }
    out
}

//! Root-mean-square and layer normalisation, with and without the residual sum before them.

use crate::{Compute, RowsMut};

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

/// `out = norm(x)`, row by row.
pub fn rms_norm(_compute: &mut Compute, x: &[f32], norm: &RmsNorm<'_>, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "x and out");
    out.copy_from_slice(x);
    out.chunks_exact_mut(norm.weight.len())
        .for_each(|row| rms_row(row, norm));
}

/// `residual += x; out = norm(residual)`, row by row.
pub fn add_rms_norm(
    compute: &mut Compute,
    residual: &mut [f32],
    x: &[f32],
    norm: &RmsNorm<'_>,
    out: &mut [f32],
) {
    assert_eq!(residual.len(), x.len(), "residual and x");
    residual
        .iter_mut()
        .zip(x)
        .for_each(|(residual, x)| *residual += x);
    rms_norm(compute, residual, norm, out);
}

/// Norm of each head of `norm.weight.len()` elements inside the rows, in place.
pub fn rms_norm_heads(_compute: &mut Compute, x: &mut RowsMut<'_>, norm: &RmsNorm<'_>) {
    let head_dim = norm.weight.len();
    assert!(
        x.width().is_multiple_of(head_dim),
        "heads of {head_dim} in rows of {}",
        x.width()
    );
    for row in 0..x.len() {
        x.row(row)
            .chunks_exact_mut(head_dim)
            .for_each(|head| rms_row(head, norm));
    }
}

/// `out = norm(x)`, row by row.
pub fn layer_norm(_compute: &mut Compute, x: &[f32], norm: &LayerNorm<'_>, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "x and out");
    out.copy_from_slice(x);
    out.chunks_exact_mut(norm.weight.len())
        .for_each(|row| layer_row(row, norm));
}

/// `residual = norm(residual + x)`, row by row: the order of BERT.
pub fn add_layer_norm(
    _compute: &mut Compute,
    residual: &mut [f32],
    x: &[f32],
    norm: &LayerNorm<'_>,
) {
    assert_eq!(residual.len(), x.len(), "residual and x");
    residual
        .iter_mut()
        .zip(x)
        .for_each(|(residual, x)| *residual += x);
    residual
        .chunks_exact_mut(norm.weight.len())
        .for_each(|row| layer_row(row, norm));
}

fn rms_row(row: &mut [f32], norm: &RmsNorm<'_>) {
    let mean = row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32;
    let factor = 1.0 / (mean + norm.eps).sqrt();
    row.iter_mut()
        .zip(norm.weight)
        .for_each(|(x, weight)| *x = *x * factor * weight);
}

fn layer_row(row: &mut [f32], norm: &LayerNorm<'_>) {
    let mean = row.iter().sum::<f32>() / row.len() as f32;
    let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / row.len() as f32;
    let factor = 1.0 / (variance + norm.eps).sqrt();
    for ((x, weight), bias) in row.iter_mut().zip(norm.weight).zip(norm.bias) {
        *x = (*x - mean) * factor * weight + bias;
    }
}

//! Activation functions, and their gated forms on a fused gate-and-up projection.

use crate::Compute;

/// `out = silu(gate) * up` for rows `[gate | up]` of `2 * ffn` elements.
pub fn silu_mul(_compute: &mut Compute, gate_up: &[f32], ffn: usize, out: &mut [f32]) {
    gated(gate_up, ffn, out, |x| x / (1.0 + (-x).exp()));
}

/// `out = gelu(gate) * up` with the tanh form of gelu, for rows `[gate | up]` of `2 * ffn` elements.
pub fn gelu_tanh_mul(_compute: &mut Compute, gate_up: &[f32], ffn: usize, out: &mut [f32]) {
    gated(gate_up, ffn, out, tanh_form);
}

/// `x = gelu(x)` by the error function, in place.
pub fn gelu_erf(_compute: &mut Compute, x: &mut [f32]) {
    for x in x {
        let erf = reference_erf(f64::from(*x) * std::f64::consts::FRAC_1_SQRT_2);
        *x = (0.5 * f64::from(*x) * (1.0 + erf)) as f32;
    }
}

/// `x = gelu(x)` in the tanh form, in place.
pub fn gelu_tanh(_compute: &mut Compute, x: &mut [f32]) {
    for x in x {
        *x = tanh_form(*x);
    }
}

fn gated(gate_up: &[f32], ffn: usize, out: &mut [f32], activation: impl Fn(f32) -> f32) {
    assert_eq!(gate_up.len(), 2 * out.len(), "gate and up beside out");
    for (gate_up, out) in gate_up.chunks_exact(2 * ffn).zip(out.chunks_exact_mut(ffn)) {
        let (gate, up) = gate_up.split_at(ffn);
        for ((out, &gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = activation(gate) * up;
        }
    }
}

fn tanh_form(x: f32) -> f32 {
    let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
    0.5 * x * (1.0 + inner.tanh())
}

fn reference_erf(x: f64) -> f64 {
    // Integral of the density by Simpson's rule: slow and plain.
    let end = x.clamp(-6.0, 6.0);
    let steps = 400;
    let h = end / f64::from(steps);
    let f = |i: i32| (-(f64::from(i) * h).powi(2)).exp();
    let sum: f64 = (0..steps / 2)
        .map(|i| f(2 * i) + 4.0 * f(2 * i + 1) + f(2 * i + 2))
        .sum();
    std::f64::consts::FRAC_2_SQRT_PI * h / 3.0 * sum
}

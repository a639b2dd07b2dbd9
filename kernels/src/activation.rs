//! Activation functions, and their gated forms on a fused gate-and-up projection.

#![expect(unsafe_code, reason = "threads write to one slice")]

use crate::Compute;
use crate::shared::SharedMut;
use crate::simd::{Kernel, LANES, Simd, math, vectorize};

/// `out = silu(gate) * up` for rows `[gate | up]` of `2 * ffn` elements.
pub fn silu_mul(compute: &mut Compute, gate_up: &[f32], ffn: usize, out: &mut [f32]) {
    gated(compute, Function::Silu, gate_up, ffn, out);
}

/// `out = gelu(gate) * up` with the tanh form of gelu, for rows `[gate | up]` of `2 * ffn` elements.
pub fn gelu_tanh_mul(compute: &mut Compute, gate_up: &[f32], ffn: usize, out: &mut [f32]) {
    gated(compute, Function::GeluTanh, gate_up, ffn, out);
}

/// `out = gelu(gate) * up` by the error function, for rows `[gate | up]` of `2 * ffn` elements.
pub fn gelu_erf_mul(compute: &mut Compute, gate_up: &[f32], ffn: usize, out: &mut [f32]) {
    gated(compute, Function::GeluErf, gate_up, ffn, out);
}

/// `x = gelu(x)` by the error function, in place.
pub fn gelu_erf(compute: &mut Compute, x: &mut [f32]) {
    in_place(compute, Function::GeluErf, x);
}

/// `x = gelu(x)` in the tanh form, in place.
pub fn gelu_tanh(compute: &mut Compute, x: &mut [f32]) {
    in_place(compute, Function::GeluTanh, x);
}

/// `x = max(x, 0)`, in place; what is not a number stays so.
pub fn relu(compute: &mut Compute, x: &mut [f32]) {
    in_place(compute, Function::Relu, x);
}

/// `x = tanh(x)`, in place.
pub fn tanh(compute: &mut Compute, x: &mut [f32]) {
    in_place(compute, Function::Tanh, x);
}

/// An activation that a linear layer applies to its outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Gelu by the error function.
    GeluErf,
    /// Gelu in the tanh form.
    GeluTanh,
    /// The larger of the value and 0.
    Relu,
    /// The hyperbolic tangent.
    Tanh,
}

impl From<Activation> for Function {
    fn from(activation: Activation) -> Self {
        match activation {
            Activation::GeluErf => Self::GeluErf,
            Activation::GeluTanh => Self::GeluTanh,
            Activation::Relu => Self::Relu,
            Activation::Tanh => Self::Tanh,
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Function {
    Silu,
    GeluTanh,
    GeluErf,
    Relu,
    Tanh,
}

impl Function {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::F) -> S::F {
        match self {
            Self::Silu => simd.mul(x, math::sigmoid(simd, x)),
            // (1 + tanh u) / 2 = sigmoid(2 u), which keeps its precision for negative u.
            Self::GeluTanh => {
                let square = simd.mul(x, x);
                let inner = simd.fma(square, simd.splat(TANH_CUBIC), simd.splat(TANH_LINEAR));
                simd.mul(x, math::sigmoid(simd, simd.mul(x, inner)))
            }
            Self::GeluErf => simd.mul(x, math::normal(simd, x)),
            Self::Relu => simd.max(simd.splat(0.0), x),
            Self::Tanh => math::tanh(simd, x),
        }
    }
}

fn gated(compute: &mut Compute, function: Function, gate_up: &[f32], ffn: usize, out: &mut [f32]) {
    assert!(
        ffn > 0 && out.len().is_multiple_of(ffn),
        "{} elements in rows of {ffn}",
        out.len()
    );
    assert_eq!(gate_up.len(), 2 * out.len(), "gate and up beside out");
    let level = compute.level();
    let rows = out.len() / ffn;
    let out = SharedMut::new(out);
    // Cut rows too, so that one long row is shared out. Vectors stay whole within a row.
    let vectors = ffn.div_ceil(LANES);
    compute.run_chunks(rows * vectors, LANES * COST, &|chunk| {
        let mut vector = chunk.start;
        while vector < chunk.end {
            let row = vector / vectors;
            let end = chunk.end.min((row + 1) * vectors);
            let columns = vector % vectors * LANES..((end - row * vectors) * LANES).min(ffn);
            let (gate, up) = gate_up[row * 2 * ffn..(row + 1) * 2 * ffn].split_at(ffn);
            // SAFETY: each vector of the output belongs to one task.
            let out = unsafe { out.slice(row * ffn + columns.start..row * ffn + columns.end) };
            let (gate, up) = (&gate[columns.clone()], &up[columns]);
            vectorize(
                level,
                Gated {
                    function,
                    gate,
                    up,
                    out,
                },
            );
            vector = end;
        }
    });
}

struct Gated<'a> {
    function: Function,
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.gate.chunks(LANES).zip(self.up.chunks(LANES));
        for ((gate, up), out) in rows.zip(self.out.chunks_mut(LANES)) {
            let gate = self.function.apply(simd, simd.load_slice(gate));
            simd.store_slice(out, simd.mul(gate, simd.load_slice(up)));
        }
    }
}

fn in_place(compute: &mut Compute, function: Function, x: &mut [f32]) {
    let level = compute.level();
    let len = x.len();
    let x = SharedMut::new(x);
    compute.run_chunks(len.div_ceil(LANES), LANES * COST, &|chunk| {
        // SAFETY: each vector belongs to one task.
        let x = unsafe { x.slice(chunk.start * LANES..(chunk.end * LANES).min(len)) };
        vectorize(level, InPlace { function, x });
    });
}

pub(crate) struct InPlace<'a> {
    pub(crate) function: Function,
    pub(crate) x: &'a mut [f32],
}

impl Kernel for InPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for x in self.x.chunks_mut(LANES) {
            let value = self.function.apply(simd, simd.load_slice(x));
            simd.store_slice(x, value);
        }
    }
}

// Twice sqrt(2 / pi), and that times 0.044715.
const TANH_LINEAR: f32 = 1.595_769;
const TANH_CUBIC: f32 = 0.071_354_814;

// An exponential costs about as much as touching four floats.
const COST: usize = 4;

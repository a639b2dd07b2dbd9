//! The linear layer: `y = x W^T + b` with weights packed once at load.
#![expect(unsafe_code, reason = "threads write to one slice")]

use crate::activation::Activation;
use crate::gemm::{After, Panels};
use crate::shared::SharedMut;
use crate::simd::LANES;
use crate::{Compute, OutOfMemory};
use half::bf16;

/// Size of a weight matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearShape {
    /// Elements of an output row.
    pub outputs: usize,
    /// Elements of an input row.
    pub inputs: usize,
}

/// A weight matrix, in f32 or bf16, and its optional bias.
#[derive(Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Vec<f32>>,
}

#[derive(Debug)]
enum Weight {
    F32(Panels<f32>),
    /// Lanes of two weights next to each other along the inputs, the first in the low bits.
    Bf16(Panels<u32>),
}

impl Linear {
    /// Packs a weight `[outputs, inputs]` as Hugging Face stores it.
    pub fn from_f32(
        shape: LinearShape,
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<Self, OutOfMemory> {
        let LinearShape { outputs, inputs } = shape;
        assert_eq!(weight.len(), outputs * inputs, "weight of {shape:?}");
        let panels = Panels::pack(outputs, inputs, |output, step| {
            weight[output * inputs + step]
        })?;
        Ok(Self::new(shape, Weight::F32(panels), bias))
    }

    /// Packs a weight `[outputs, inputs]`. On machines with bf16 dot products `forward` rounds
    /// its inputs to bf16 too; sums are f32 everywhere.
    pub fn from_bf16(
        shape: LinearShape,
        weight: &[bf16],
        bias: Option<&[f32]>,
    ) -> Result<Self, OutOfMemory> {
        let LinearShape { outputs, inputs } = shape;
        assert_eq!(weight.len(), outputs * inputs, "weight of {shape:?}");
        let panels = Panels::pack(outputs, inputs, |output, step| {
            let row = &weight[output * inputs..(output + 1) * inputs];
            let high = row.get(2 * step + 1).map_or(0, |high| high.to_bits());
            u32::from(row[2 * step].to_bits()) | u32::from(high) << 16
        })?;
        Ok(Self::new(shape, Weight::Bf16(panels), bias))
    }

    fn new(shape: LinearShape, weight: Weight, bias: Option<&[f32]>) -> Self {
        assert!(shape.inputs > 0 && shape.outputs > 0, "{shape:?}");
        assert!(
            bias.is_none_or(|bias| bias.len() == shape.outputs),
            "bias of {shape:?}"
        );
        Self {
            weight,
            bias: bias.map(<[f32]>::to_vec),
        }
    }

    /// Size of the weight matrix.
    pub fn shape(&self) -> LinearShape {
        let (outputs, inputs) = match &self.weight {
            Weight::F32(panels) => (panels.outputs, panels.inputs),
            Weight::Bf16(panels) => (panels.outputs, panels.inputs),
        };
        LinearShape { outputs, inputs }
    }

    /// Bytes held for the weights and the bias.
    pub fn bytes(&self) -> usize {
        let weight = match &self.weight {
            Weight::F32(panels) => size_of_val::<[f32]>(&panels.lanes),
            Weight::Bf16(panels) => size_of_val::<[u32]>(&panels.lanes),
        };
        weight
            + self
                .bias
                .as_ref()
                .map_or(0, |bias| size_of_val(bias.as_slice()))
    }

    /// Overwrites `y` `[rows, outputs]` with `x W^T + b` for `x` `[rows, inputs]`.
    pub fn forward(&self, compute: &mut Compute, x: &[f32], y: &mut [f32]) {
        self.multiply(compute, x, None, y);
    }

    /// Overwrites `y` with `activation(x W^T + b)`: the same bits as the two one after the other,
    /// without going through memory between them.
    pub fn forward_activated(
        &self,
        compute: &mut Compute,
        x: &[f32],
        activation: Activation,
        y: &mut [f32],
    ) {
        self.multiply(compute, x, Some(activation), y);
    }

    fn multiply(
        &self,
        compute: &mut Compute,
        x: &[f32],
        activation: Option<Activation>,
        y: &mut [f32],
    ) {
        let LinearShape { outputs, inputs } = self.shape();
        assert!(
            x.len().is_multiple_of(inputs),
            "{} elements are no rows of {inputs}",
            x.len()
        );
        assert_eq!(y.len(), x.len() / inputs * outputs, "rows of x and y");
        let after = After {
            bias: self.bias.as_deref(),
            activation: activation.map(Into::into),
        };
        match &self.weight {
            Weight::F32(panels) => panels.forward(compute, x, after, y),
            Weight::Bf16(panels) => panels.forward(compute, x, after, y),
        }
    }

    /// Rows of the weight as f32, `[tokens, inputs]`: the embedding when it is tied to the output.
    pub fn gather(&self, compute: &mut Compute, tokens: &[u32], out: &mut [f32]) {
        let LinearShape { outputs, inputs } = self.shape();
        assert_eq!(out.len(), tokens.len() * inputs, "gathered rows");
        let out = SharedMut::new(out);
        // Lanes of a row are far apart: a touched float costs as much as eight in a row.
        compute.run_chunks(tokens.len(), inputs * 8, &|rows| {
            for row in rows {
                let token = tokens[row] as usize;
                assert!(token < outputs, "token {token} of {outputs}");
                // SAFETY: each row of the output belongs to one task.
                let out = unsafe { out.slice(row * inputs..(row + 1) * inputs) };
                self.unpack(token, out);
            }
        });
    }

    fn unpack(&self, output: usize, out: &mut [f32]) {
        let first = |steps: usize| output / LANES * steps * LANES + output % LANES;
        match &self.weight {
            Weight::F32(panels) => {
                let lanes = panels.lanes[first(panels.steps)..].iter().step_by(LANES);
                out.iter_mut()
                    .zip(lanes)
                    .for_each(|(out, &lane)| *out = lane);
            }
            Weight::Bf16(panels) => {
                let lanes = panels.lanes[first(panels.steps)..].iter().step_by(LANES);
                for (out, &lane) in out.chunks_mut(2).zip(lanes) {
                    out[0] = f32::from_bits(lane << 16);
                    if let Some(high) = out.get_mut(1) {
                        *high = f32::from_bits(lane & 0xffff_0000);
                    }
                }
            }
        }
    }
}

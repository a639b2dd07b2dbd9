//! The linear layer: `y = x W^T + b` with weights packed once at load.

use crate::Compute;
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
    shape: LinearShape,
    weight: Weight,
    bias: Option<Vec<f32>>,
}

#[derive(Debug)]
enum Weight {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

impl Linear {
    /// Packs a weight `[outputs, inputs]` as Hugging Face stores it.
    pub fn from_f32(shape: LinearShape, weight: &[f32], bias: Option<&[f32]>) -> Self {
        assert_eq!(
            weight.len(),
            shape.outputs * shape.inputs,
            "weight of {shape:?}"
        );
        Self::new(shape, Weight::F32(weight.to_vec()), bias)
    }

    /// Packs a weight `[outputs, inputs]`; inputs of `forward` may be rounded to bf16.
    pub fn from_bf16(shape: LinearShape, weight: &[bf16], bias: Option<&[f32]>) -> Self {
        assert_eq!(
            weight.len(),
            shape.outputs * shape.inputs,
            "weight of {shape:?}"
        );
        Self::new(shape, Weight::Bf16(weight.to_vec()), bias)
    }

    fn new(shape: LinearShape, weight: Weight, bias: Option<&[f32]>) -> Self {
        assert!(
            bias.is_none_or(|bias| bias.len() == shape.outputs),
            "bias of {shape:?}"
        );
        Self {
            shape,
            weight,
            bias: bias.map(<[f32]>::to_vec),
        }
    }

    /// Size of the weight matrix.
    pub fn shape(&self) -> LinearShape {
        self.shape
    }

    /// Bytes held for the weights and the bias.
    pub fn bytes(&self) -> usize {
        let weight = match &self.weight {
            Weight::F32(weight) => size_of_val(weight.as_slice()),
            Weight::Bf16(weight) => size_of_val(weight.as_slice()),
        };
        weight
            + self
                .bias
                .as_ref()
                .map_or(0, |bias| size_of_val(bias.as_slice()))
    }

    /// Overwrites `y` `[rows, outputs]` with `x W^T + b` for `x` `[rows, inputs]`.
    pub fn forward(&self, _compute: &mut Compute, x: &[f32], y: &mut [f32]) {
        let LinearShape { outputs, inputs } = self.shape;
        assert_eq!(x.len() * outputs, y.len() * inputs, "rows of x and y");
        for (x, y) in x.chunks_exact(inputs).zip(y.chunks_exact_mut(outputs)) {
            for (n, y) in y.iter_mut().enumerate() {
                let dot: f32 = x
                    .iter()
                    .enumerate()
                    .map(|(k, x)| x * self.at(n * inputs + k))
                    .sum();
                *y = dot + self.bias.as_ref().map_or(0.0, |bias| bias[n]);
            }
        }
    }

    /// Rows of the weight as f32, `[tokens, inputs]`: the embedding when it is tied to the output.
    pub fn gather(&self, _compute: &mut Compute, tokens: &[u32], out: &mut [f32]) {
        let LinearShape { outputs, inputs } = self.shape;
        assert_eq!(out.len(), tokens.len() * inputs, "gathered rows");
        for (&token, out) in tokens.iter().zip(out.chunks_exact_mut(inputs)) {
            assert!((token as usize) < outputs, "token {token} of {outputs}");
            for (k, out) in out.iter_mut().enumerate() {
                *out = self.at(token as usize * inputs + k);
            }
        }
    }

    fn at(&self, index: usize) -> f32 {
        match &self.weight {
            Weight::F32(weight) => weight[index],
            Weight::Bf16(weight) => weight[index].to_f32(),
        }
    }
}

//! The norms of an encoder: layer norm with or without a bias, or root mean square.

use kernels::Level;
use kernels::norm::{LayerNorm, Norm as Kernel, RmsNorm};

use crate::load::LoadError;
use crate::source::Source;
use crate::spec::{EncoderSpec, NormKind};

/// A norm of rows of the hidden width, with its weights.
#[derive(Debug)]
pub(crate) struct Norm {
    weight: Vec<f32>,
    /// Of a layer norm; all zeros where its file has none.
    bias: Option<Vec<f32>>,
    eps: f32,
}

impl Norm {
    /// Reads the weights.
    pub(crate) fn load(
        source: &mut Source,
        name: &str,
        spec: &EncoderSpec,
    ) -> Result<Self, LoadError> {
        let width = spec.hidden;
        let mut bias = Vec::with_capacity(width);
        match spec.norm {
            NormKind::Biased => source.shift(&format!("{name}.bias"), width, &mut bias)?,
            NormKind::Unbiased | NormKind::Rms => bias.resize(width, 0.0),
        }
        Ok(Self {
            weight: source.scale(&format!("{name}.weight"), width)?,
            bias: (spec.norm != NormKind::Rms).then_some(bias),
            eps: spec.norm_eps,
        })
    }
}

impl Kernel for Norm {
    fn width(&self) -> usize {
        self.weight.len()
    }

    fn apply(&self, level: Level, row: &mut [f32]) {
        let Self { weight, bias, eps } = self;
        let eps = *eps;
        match bias {
            Some(bias) => LayerNorm { weight, bias, eps }.apply(level, row),
            None => RmsNorm { weight, eps }.apply(level, row),
        }
    }
}

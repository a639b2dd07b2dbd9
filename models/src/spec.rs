//! What a network is, as data: one decoder and one encoder are driven by these.

use engine::executor::Pooling;
use kernels::activation::Activation;

/// A decoder: pre-norm residual blocks of rotary attention and a gated MLP.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DecoderSpec {
    /// Rows of the embedding and of the head.
    pub(crate) vocab: usize,
    /// Width of the residual stream.
    pub(crate) hidden: usize,
    /// Width inside the MLP.
    pub(crate) ffn: usize,
    /// Query heads.
    pub(crate) heads: usize,
    /// Key and value heads; divides `heads`.
    pub(crate) kv_heads: usize,
    /// Width of one head; even.
    pub(crate) head_dim: usize,
    /// Longest sequence the model knows.
    pub(crate) context_max: u32,
    /// Added to the mean square in every norm.
    pub(crate) norm_eps: f32,
    /// The rotary position embedding of all layers.
    pub(crate) rope: Rope,
    /// A norm on each head of q and k, before the rotation.
    pub(crate) qk_norm: QkNorm,
    /// Which projections have a bias.
    pub(crate) bias: Bias,
    /// The gate's activation.
    pub(crate) activation: GatedActivation,
    /// Where the head's weights come from.
    pub(crate) head: Head,
    /// One layer each: how many positions it looks back, itself included; `None` is all.
    pub(crate) windows: Vec<Option<u32>>,
}

/// How positions turn queries and keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rope {
    /// The base of the geometric series of wave lengths.
    pub(crate) theta: f64,
    /// What was done to reach beyond the first training's context.
    pub(crate) scaling: RopeScaling,
}

/// Changes to the rotary frequencies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RopeScaling {
    /// None.
    Default,
    /// All frequencies divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by a factor, high ones kept, a ramp between.
    Llama3 {
        /// Divides the low frequencies.
        factor: f64,
        /// Wave lengths above `original_context / low` are divided.
        low: f64,
        /// Wave lengths below `original_context / high` are kept.
        high: f64,
        /// Context of the first training.
        original_context: f64,
    },
}

impl Rope {
    /// The angle per position of each pair of a head, in radians.
    pub(crate) fn inverse_frequencies(&self, head_dim: usize) -> Vec<f64> {
        let plain =
            (0..head_dim / 2).map(|pair| self.theta.powf(-((2 * pair) as f64) / head_dim as f64));
        plain
            .map(|frequency| self.scaling.apply(frequency))
            .collect()
    }
}

impl RopeScaling {
    fn apply(self, frequency: f64) -> f64 {
        match self {
            Self::Default => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 {
                factor,
                low,
                high,
                original_context,
            } => {
                let waves = original_context * frequency / std::f64::consts::TAU;
                let kept = ((waves - low) / (high - low)).clamp(0.0, 1.0);
                kept * frequency + (1.0 - kept) * frequency / factor
            }
        }
    }
}

/// Norms on queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QkNorm {
    /// None.
    None,
    /// RMS norm over each head, one weight for all heads of q and one for those of k.
    PerHead,
}

/// Which projections have a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bias {
    /// Query, key and value.
    pub(crate) qkv: bool,
    /// The attention's output.
    pub(crate) output: bool,
    /// Gate, up and down.
    pub(crate) mlp: bool,
}

/// The activation of a gated MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GatedActivation {
    /// x * sigmoid(x).
    Silu,
    /// The tanh approximation of GELU.
    GeluTanh,
}

/// Where a head's weights come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// `lm_head.weight`.
    Own,
    /// The token embedding's.
    Tied,
}

/// An encoder: post-norm residual blocks of full attention and a plain MLP, all with biases.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EncoderSpec {
    /// Rows of the token embedding.
    pub(crate) vocab: usize,
    /// Width of the residual stream and of the vectors.
    pub(crate) hidden: usize,
    /// Width inside the MLP.
    pub(crate) ffn: usize,
    /// Attention heads; divides `hidden`.
    pub(crate) heads: usize,
    /// Layers.
    pub(crate) layers: usize,
    /// Rows of the position embedding: the longest input.
    pub(crate) positions: usize,
    /// Rows of the segment embedding.
    pub(crate) segments: usize,
    /// Added to the variance in every norm.
    pub(crate) norm_eps: f32,
    /// The MLP's activation.
    pub(crate) activation: Activation,
}

/// A network of either kind.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Network {
    /// It continues text.
    Decoder(DecoderSpec),
    /// It embeds text.
    Encoder(EncoderSpec),
}

/// What an encoder's vectors are made into, unless a request says otherwise.
pub(crate) const POOLING_DEFAULT: Pooling = Pooling::Mean;

#[cfg(test)]
mod tests {
    use super::*;

    /// Llama 3.1: pair 28 is the last with a wave shorter than 8192 / 4, pair 35 the first with
    /// one longer than 8192.
    #[test]
    fn llama3_keeps_high_and_divides_low_frequencies() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low: 1.0,
            high: 4.0,
            original_context: 8192.0,
        };
        let scaled = Rope {
            theta: 500_000.0,
            scaling,
        }
        .inverse_frequencies(128);
        let plain = Rope {
            theta: 500_000.0,
            scaling: RopeScaling::Default,
        }
        .inverse_frequencies(128);
        let ratios: Vec<f64> = scaled.iter().zip(&plain).map(|(a, b)| a / b).collect();
        assert_eq!(plain[0].to_bits(), 1.0_f64.to_bits());
        assert!(
            ratios[..=28]
                .iter()
                .all(|ratio| (ratio - 1.0).abs() < 1e-12),
            "{ratios:?}"
        );
        assert!(
            ratios[35..]
                .iter()
                .all(|ratio| (ratio - 0.125).abs() < 1e-12),
            "{ratios:?}"
        );
        assert!(ratios.is_sorted_by(|a, b| a >= b));
    }

    #[test]
    fn linear_divides_all_frequencies() {
        let rope = Rope {
            theta: 10_000.0,
            scaling: RopeScaling::Linear { factor: 4.0 },
        };
        let frequencies = rope.inverse_frequencies(8);
        assert!((frequencies[0] - 0.25).abs() < 1e-15);
        assert!((frequencies[2] - 0.0025).abs() < 1e-15);
    }
}

//! What a network is, as data: one decoder and one encoder are driven by these.

use engine::executor::Pooling;
use kernels::activation::Activation;
use kernels::attention::Look;

use crate::load::ClassifyInfo;

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
    /// GTE's: a base multiplied by a factor, and all frequencies divided by what makes the lowest
    /// one the plain lowest one divided by the factor.
    Ntk {
        /// The factor.
        factor: f64,
    },
}

impl Rope {
    /// The angle per position of each pair of a head, in radians.
    pub(crate) fn inverse_frequencies(&self, head_dim: usize) -> Vec<f64> {
        let (theta, divisor) = match self.scaling {
            RopeScaling::Ntk { factor } => {
                (self.theta * factor, factor.powf(2.0 / head_dim as f64))
            }
            _ => (self.theta, 1.0),
        };
        let plain = (0..head_dim / 2)
            .map(|pair| theta.powf(-((2 * pair) as f64) / head_dim as f64) / divisor);
        plain
            .map(|frequency| self.scaling.apply(frequency))
            .collect()
    }
}

impl RopeScaling {
    fn apply(self, frequency: f64) -> f64 {
        match self {
            Self::Default | Self::Ntk { .. } => frequency,
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
    /// GELU by the error function.
    GeluErf,
}

/// Where a head's weights come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// `lm_head.weight`.
    Own,
    /// The token embedding's.
    Tied,
}

/// An encoder: residual blocks of attention and an MLP over packed inputs, and a head.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EncoderSpec {
    /// Rows of the token embedding.
    pub(crate) vocab: usize,
    /// Width of the residual stream and of a token's vector.
    pub(crate) hidden: usize,
    /// Width inside the MLP.
    pub(crate) ffn: usize,
    /// Query heads.
    pub(crate) heads: usize,
    /// Key and value heads; divides `heads`.
    pub(crate) kv_heads: usize,
    /// Width of one head.
    pub(crate) head_dim: usize,
    /// Whom a token sees.
    pub(crate) look: Look,
    /// One layer each: a window as [`kernels::attention::AttentionShape`] has it; `None` is all.
    pub(crate) windows: Vec<Option<u32>>,
    /// How it knows the order of tokens.
    pub(crate) positions: Positions,
    /// What scores of attention get by the distance of key and query, if anything.
    pub(crate) distance: Option<Distance>,
    /// A norm on each head of q and k, before the rotation.
    pub(crate) qk_norm: QkNorm,
    /// Rows of the segment embedding; 0 where there is none.
    pub(crate) segments: usize,
    /// What the norms do.
    pub(crate) norm: NormKind,
    /// Added to the variance in every norm.
    pub(crate) norm_eps: f32,
    /// Where the norms stand.
    pub(crate) norms: Norms,
    /// Which projections have a bias, the head left out.
    pub(crate) bias: EncoderBias,
    /// The MLP.
    pub(crate) mlp: Mlp,
    /// What becomes of the tokens' vectors.
    pub(crate) head: EncoderHead,
    /// What its tensors are called.
    pub(crate) names: &'static Names,
}

/// How an encoder knows the order of tokens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Positions {
    /// A table of vectors that are added to the tokens'.
    Table {
        /// Rows of the table.
        rows: usize,
        /// The row of the first token; those before it are padding's.
        first: usize,
    },
    /// By the distance of key and query alone.
    Unmarked {
        /// The longest input.
        context: usize,
    },
    /// Queries and keys are turned.
    Rotary {
        /// The longest input.
        context: usize,
        /// In layers that see everything.
        full: Rope,
        /// In layers with a window, where it is another one.
        windowed: Option<Rope>,
    },
}

/// What scores of attention get by the distance of key and query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Distance {
    /// A learned bias for each head and bucket.
    Buckets(DistanceBuckets),
    /// Less the farther away, by a slope for each head (`ALiBi`).
    Slopes,
}

/// The slopes of so many heads: a geometric series from `2^(-8 / n)` down to `2^-8` for a power of
/// two; of the heads beyond one, every other number of the series for twice as many.
pub(crate) fn slopes(heads: usize) -> Vec<f64> {
    let series =
        |count: usize| (1..=count).map(move |number| (-8.0 * number as f64 / count as f64).exp2());
    let power = if heads.is_power_of_two() {
        heads
    } else {
        heads.next_power_of_two() / 2
    };
    let beyond = series(2 * power).step_by(2).take(heads - power);
    series(power).chain(beyond).collect()
}

/// Distances that share a bias: each of the first ones has its own, then ever more of them share
/// one, up to a distance after which all do; those before and after a query apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DistanceBuckets {
    /// Rows of the table.
    pub(crate) buckets: usize,
    /// Distances from here on share the last bucket.
    pub(crate) distance_max: usize,
}

impl DistanceBuckets {
    /// The row of a distance, from the query to the key.
    pub(crate) fn of(self, distance: isize) -> usize {
        let half = self.buckets / 2;
        let exact = half / 2;
        let away = distance.unsigned_abs();
        let side = if distance > 0 { half } else { 0 };
        if away < exact {
            return side + away;
        }
        // In f32, as the networks were trained: buckets begin where it rounds to.
        let share = (away as f32 / exact as f32).ln()
            / (self.distance_max as f64 / exact as f64).ln() as f32;
        let beyond = (share * (half - exact) as f32) as usize;
        side + (exact + beyond).min(half - 1)
    }
}

/// Where the norms stand in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Norms {
    /// After the sum of residual and update, as in BERT.
    After,
    /// Before attention (but for the first layer's, which reads the embedding's norm) and MLP, and
    /// once after the last layer.
    Before,
    /// The same, but for the embedding, which has no norm beside that of the first layer's
    /// attention, as in a decoder.
    BeforeAll,
}

/// What an encoder's norms do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormKind {
    /// Layer norm with a bias.
    Biased,
    /// Layer norm without one.
    Unbiased,
    /// Root-mean-square norm.
    Rms,
}

/// Which projections of an encoder's layers have a bias.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each projection has a bias or not"
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EncoderBias {
    /// Query, key and value.
    pub(crate) qkv: bool,
    /// The attention's output.
    pub(crate) output: bool,
    /// The MLP's way up.
    pub(crate) up: bool,
    /// The MLP's way down.
    pub(crate) down: bool,
}

impl EncoderBias {
    /// All of them.
    pub(crate) const ALL: Self = Self {
        qkv: true,
        output: true,
        up: true,
        down: true,
    };
}

/// An encoder's MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mlp {
    /// `down(activation(up(x)))`.
    Plain(Activation),
    /// `down(activation(gate(x)) * up(x))`.
    Gated(GatedActivation),
    /// The same, of files whose one tensor for both has `up` first.
    GatedSwapped(GatedActivation),
}

impl Mlp {
    /// The gate's activation, where there is a gate.
    pub(crate) fn gate(self) -> Option<GatedActivation> {
        match self {
            Self::Plain(_) => None,
            Self::Gated(gate) | Self::GatedSwapped(gate) => Some(gate),
        }
    }
}

/// What becomes of the tokens' vectors.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum EncoderHead {
    /// They are pooled, and go through the Dense modules of sentence-transformers, if there are any.
    Vectors(Vec<DenseModule>),
    /// Scores of labels.
    Classifier(Classifier),
    /// Weights of the vocabulary's words.
    Vocabulary(Vocabulary),
}

/// A linear layer of a head.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Dense {
    /// The tensors' name, without `.weight` and `.bias`.
    pub(crate) name: &'static str,
    /// Elements of its input.
    pub(crate) inputs: usize,
    /// Elements of its output.
    pub(crate) outputs: usize,
    /// Whether it has a bias.
    pub(crate) bias: bool,
    /// What follows the sum.
    pub(crate) activation: Option<Activation>,
    /// The norm after that.
    pub(crate) norm: Option<&'static str>,
}

/// A Dense module of sentence-transformers, in a folder of its own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DenseModule {
    /// The folder below the model's.
    pub(crate) folder: String,
    /// Its layer.
    pub(crate) layer: Dense,
}

/// A classifier's head: layers on one pooled vector, as many outputs as labels.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Classifier {
    /// How the tokens' vectors become one.
    pub(crate) pooling: Pooling,
    /// The layers, the last of which gives the scores.
    pub(crate) layers: Vec<Dense>,
    /// What the file says of the scores.
    pub(crate) info: ClassifyInfo,
}

/// A masked language model's head: a layer, then the token embedding's rows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Vocabulary {
    /// The layer before the words.
    pub(crate) transform: Dense,
    /// The words' bias.
    pub(crate) bias: Option<&'static str>,
}

/// What an encoder's tensors are called, without `.weight` and `.bias`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Names {
    /// What a file saved with a head on top puts before each of the other names.
    pub(crate) base: &'static str,
    /// The token embedding.
    pub(crate) tokens: &'static str,
    /// The position embedding, where there is one.
    pub(crate) positions: &'static str,
    /// The segment embedding, where there is one.
    pub(crate) segments: &'static str,
    /// The table of biases by distance, where there is one.
    pub(crate) distance: &'static str,
    /// The norm of the embeddings' sum.
    pub(crate) embedding_norm: &'static str,
    /// What stands before the number of a layer.
    pub(crate) layer: &'static str,
    /// Queries, keys and values, in one tensor or in three.
    pub(crate) qkv: &'static [&'static str],
    /// The norms of the heads of q and of k, where there are any.
    pub(crate) qk_norm: [&'static str; 2],
    /// The attention's output.
    pub(crate) output: &'static str,
    /// The norm of the attention.
    pub(crate) attention_norm: &'static str,
    /// The MLP's way up: one tensor, or gate and up.
    pub(crate) up: &'static [&'static str],
    /// The MLP's way down.
    pub(crate) down: &'static str,
    /// The norm of the MLP.
    pub(crate) ffn_norm: &'static str,
    /// The norm after the last layer, where norms stand before blocks.
    pub(crate) final_norm: &'static str,
    /// How the names begin, with and without `base`, of tensors that such files may have beyond
    /// those that are read: heads for other tasks, numbers that are computed.
    pub(crate) spare: &'static [&'static str],
}

impl EncoderSpec {
    /// The longest input.
    pub(crate) fn context(&self) -> usize {
        match self.positions {
            Positions::Table { rows, first } => rows - first,
            Positions::Unmarked { context } | Positions::Rotary { context, .. } => context,
        }
    }

    /// Rows of the way up: twice the width inside where a gate stands beside it.
    pub(crate) fn up_rows(&self) -> usize {
        match self.mlp.gate() {
            None => self.ffn,
            Some(_) => 2 * self.ffn,
        }
    }

    /// Elements of the queries of a token; its keys have as many as its values.
    pub(crate) fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Elements of the keys of a token.
    pub(crate) fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// The norm of layer `layer` that follows the sum of residual and attention.
    pub(crate) fn after_attention(&self, layer: usize) -> String {
        let Names {
            layer: at,
            attention_norm,
            ffn_norm,
            ..
        } = self.names;
        match self.norms {
            Norms::After => format!("{at}{layer}.{attention_norm}"),
            Norms::Before | Norms::BeforeAll => format!("{at}{layer}.{ffn_norm}"),
        }
    }

    /// The norm that follows the sum of residual and MLP of layer `layer`.
    pub(crate) fn after_ffn(&self, layer: usize) -> String {
        let Names {
            layer: at,
            attention_norm,
            ffn_norm,
            final_norm,
            ..
        } = self.names;
        match self.norms {
            Norms::After => format!("{at}{layer}.{ffn_norm}"),
            _ if layer + 1 == self.windows.len() => (*final_norm).to_owned(),
            Norms::Before | Norms::BeforeAll => format!("{at}{}.{attention_norm}", layer + 1),
        }
    }
}

/// A network of either kind.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Network {
    /// It continues text.
    Decoder(DecoderSpec),
    /// It takes a whole text at once.
    Encoder(EncoderSpec),
}

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
    fn distances_fall_into_buckets() {
        let buckets = DistanceBuckets {
            buckets: 32,
            distance_max: 128,
        };
        let of = |distances: &[isize]| -> Vec<usize> {
            distances
                .iter()
                .map(|&distance| buckets.of(distance))
                .collect()
        };
        assert_eq!(
            of(&[0, -1, -7, -8, -11, -12, -15, -16]),
            [0, 1, 7, 8, 8, 9, 9, 10]
        );
        assert_eq!(of(&[1, 7, 8, 127, 128, 9999]), [17, 23, 24, 31, 31, 31]);
    }

    /// Those of the published code for 4 and 12 heads.
    #[test]
    fn slopes_are_two_series() {
        let powers = |heads: usize| -> Vec<f64> {
            let slopes = slopes(heads);
            let halves = |slope: &f64| (-2.0 * slope.log2()).round() / 2.0;
            slopes.iter().map(halves).collect()
        };
        assert_eq!(powers(4), [2.0, 4.0, 6.0, 8.0]);
        assert_eq!(
            powers(12),
            [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 0.5, 1.5, 2.5, 3.5]
        );
    }

    #[test]
    fn ntk_keeps_the_highest_nearly_and_divides_the_lowest_by_the_factor() {
        let frequencies = |scaling| {
            let theta = 500_000.0;
            Rope { theta, scaling }.inverse_frequencies(64)
        };
        let scaled = frequencies(RopeScaling::Ntk { factor: 2.0 });
        let plain = frequencies(RopeScaling::Default);
        assert!((scaled[0] - 2.0_f64.powf(-1.0 / 32.0)).abs() < 1e-12);
        assert!((scaled[31] / plain[31] - 0.5).abs() < 1e-12);
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

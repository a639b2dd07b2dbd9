//! ModernBERT (GTE, Nomic and Granite embeddings of its making, GTE's reranker).

use engine::executor::Pooling;
use kernels::activation::Activation;
use serde_json::json;

use crate::config::Config;
use crate::families::{self, CONTEXT_MAX, ENCODER_KEYS, EncoderKeys};
use crate::load::LoadError;
use crate::spec::{
    Classifier, Dense, EncoderBias, EncoderHead, EncoderSpec, GatedActivation, Mlp, Names, Network,
    NormKind, Norms, Positions, Rope, RopeScaling, Vocabulary,
};

/// The spec of a `ModernBertModel`.
pub(crate) fn spec(config: &Config) -> Result<Network, LoadError> {
    encoder(config).map(Network::Encoder)
}

/// The spec of a `ModernBertForSequenceClassification`.
pub(crate) fn classifier(config: &Config) -> Result<Network, LoadError> {
    let mut spec = encoder(config)?;
    let info = families::classes(config)?;
    spec.head = EncoderHead::Classifier(Classifier {
        pooling: match config.text("classifier_pooling")?.unwrap_or("cls") {
            "cls" => Pooling::Cls,
            "mean" => Pooling::Mean,
            _ => {
                let allowed = [json!("cls"), json!("mean")];
                return Err(config.unsupported("classifier_pooling", &allowed));
            }
        },
        layers: vec![
            prediction(config, spec.hidden)?,
            families::scores("classifier", spec.hidden, &info),
        ],
        info,
    });
    Ok(Network::Encoder(spec))
}

/// The spec of a `ModernBertForMaskedLM`.
pub(crate) fn masked(config: &Config) -> Result<Network, LoadError> {
    families::tied(config)?;
    let mut spec = encoder(config)?;
    let bias = config.flag("decoder_bias", true)?;
    spec.head = EncoderHead::Vocabulary(Vocabulary {
        transform: prediction(config, spec.hidden)?,
        bias: bias.then_some("decoder.bias"),
    });
    Ok(Network::Encoder(spec))
}

/// The layer that both heads begin with.
fn prediction(config: &Config, hidden: usize) -> Result<Dense, LoadError> {
    let activation = families::activation(config, "classifier_activation")?;
    Ok(Dense {
        bias: config.flag("classifier_bias", false)?,
        norm: Some("head.norm"),
        ..families::dense("head.dense", hidden, activation)
    })
}

/// Norms before blocks, rotary positions, a gated MLP, no biases; most layers see a window.
fn encoder(config: &Config) -> Result<EncoderSpec, LoadError> {
    for key in ["attention_bias", "mlp_bias", "norm_bias"] {
        config.only(key, &[json!(false)])?;
    }
    let keys = EncoderKeys {
        activation: "hidden_activation",
        ..ENCODER_KEYS
    };
    let mut spec = families::encoder(config, &keys, &NAMES)?;
    let head_dim = spec.hidden / spec.heads;
    if !head_dim.is_multiple_of(2) {
        let expected = format!("heads of an even width of hidden_size = {}", spec.hidden);
        return Err(config.wrong(keys.heads, &expected));
    }
    spec.mlp = Mlp::Gated(match families::activation(config, keys.activation)? {
        Activation::GeluErf => GatedActivation::GeluErf,
        Activation::GeluTanh => GatedActivation::GeluTanh,
        _ => {
            let allowed = [json!("gelu"), json!("gelu_pytorch_tanh")];
            return Err(config.unsupported(keys.activation, &allowed));
        }
    });
    spec.segments = 0;
    spec.norms = Norms::Before;
    spec.bias = EncoderBias::default();
    spec.norm = NormKind::Unbiased;
    spec.norm_eps = config.positive_optional("norm_eps")?.unwrap_or(1e-5) as f32;
    spec.windows = windows(config, spec.windows.len())?;
    spec.positions = Positions::Rotary {
        context: config.count("max_position_embeddings", CONTEXT_MAX)? as usize,
        full: rope(config, "full_attention", ("global_rope_theta", 160_000.0))?,
        windowed: Some(rope(
            config,
            "sliding_attention",
            ("local_rope_theta", 10_000.0),
        )?),
    };
    Ok(spec)
}

/// Layer types, or every n-th layer without a window.
fn windows(config: &Config, layers: usize) -> Result<Vec<Option<u32>>, LoadError> {
    let window = config.count_optional("local_attention", CONTEXT_MAX)?;
    let window = window.unwrap_or(128);
    if window < 2 {
        return Err(config.wrong("local_attention", "at least 2"));
    }
    if config.value("layer_types").is_some() {
        return families::windows(config, Some(window), layers);
    }
    let period = config.count_optional("global_attn_every_n_layers", CONTEXT_MAX)?;
    let period = period.unwrap_or(3) as usize;
    let window = |layer: usize| (!layer.is_multiple_of(period)).then_some(window);
    Ok((0..layers).map(window).collect())
}

/// One kind of layer's base: in `rope_parameters` as transformers 5 writes it, or by the old key.
fn rope(config: &Config, kind: &str, (old, default): (&str, f64)) -> Result<Rope, LoadError> {
    config.without("rope_scaling")?;
    let parameters = match config.object("rope_parameters")? {
        Some(kinds) => kinds.object(kind)?,
        None => None,
    };
    let mut theta = None;
    if let Some(parameters) = parameters {
        parameters.only("rope_type", &[json!("default")])?;
        theta = parameters.positive_optional("rope_theta")?;
    }
    Ok(Rope {
        theta: theta.or(config.positive_optional(old)?).unwrap_or(default),
        scaling: RopeScaling::Default,
    })
}

const NAMES: Names = Names {
    base: "model.",
    tokens: "embeddings.tok_embeddings",
    positions: "",
    segments: "",
    distance: "",
    embedding_norm: "embeddings.norm",
    layer: "layers.",
    qkv: &["attn.Wqkv"],
    qk_norm: ["", ""],
    output: "attn.Wo",
    attention_norm: "attn_norm",
    up: &["mlp.Wi"],
    down: "mlp.Wo",
    ffn_norm: "mlp_norm",
    final_norm: "final_norm",
    spare: &["head.", "decoder."],
};

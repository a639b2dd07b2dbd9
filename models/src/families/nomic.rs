//! Nomic's BERT (nomic-embed-text v1 and v1.5): rotary positions, a gated MLP, no biases but the norms'.

use serde_json::json;

use crate::config::Config;
use crate::families::{self, ENCODER_KEYS, EncoderKeys};
use crate::load::LoadError;
use crate::spec::{
    EncoderBias, EncoderSpec, GatedActivation, Mlp, Names, Network, Rope, RopeScaling,
};

/// The spec of a `NomicBertModel`, from the keys of its first files or from those that transformers
/// writes.
pub(crate) fn spec(config: &Config) -> Result<Network, LoadError> {
    let mut spec = if config.has(FIRST_KEYS.hidden) {
        first(config)?
    } else {
        let gate = match config.text(ENCODER_KEYS.activation)?.unwrap_or("silu") {
            "silu" => GatedActivation::Silu,
            _ => return Err(config.unsupported(ENCODER_KEYS.activation, &[json!("silu")])),
        };
        let mlp = Mlp::Gated(gate);
        let mut spec = families::encoder_with(config, &ENCODER_KEYS, &NAMES, mlp)?;
        let mut rope = families::rope(config)?;
        if config.value("rope_parameters").is_none() && config.value("rope_theta").is_none() {
            rope.theta = 1000.0;
        }
        spec.positions = families::rotary(config, &spec, rope)?;
        spec
    };
    spec.bias = EncoderBias::default();
    Ok(Network::Encoder(spec))
}

fn first(config: &Config) -> Result<EncoderSpec, LoadError> {
    for (key, neutral) in NEUTRAL {
        config.only(key, &[json!(neutral)])?;
    }
    config.only("rotary_emb_fraction", &[json!(1.0)])?;
    config.only("moe_every_n_layers", &[json!(0)])?;
    for key in FOREIGN {
        config.without(key)?;
    }
    let gate = match config.text(FIRST_KEYS.activation)? {
        Some("swiglu") => GatedActivation::Silu,
        Some("geglu") => GatedActivation::GeluErf,
        _ => {
            let allowed = [json!("swiglu"), json!("geglu")];
            return Err(config.unsupported(FIRST_KEYS.activation, &allowed));
        }
    };
    let mlp = Mlp::Gated(gate);
    let mut spec = families::encoder_with(config, &FIRST_KEYS, &NAMES, mlp)?;
    spec.norm_eps = config.positive("layer_norm_epsilon")? as f32;
    let rope = Rope {
        theta: config.positive("rotary_emb_base")?,
        scaling: RopeScaling::Default,
    };
    spec.positions = families::rotary(config, &spec, rope)?;
    Ok(spec)
}

/// The first files' keys are GPT-2's.
const FIRST_KEYS: EncoderKeys = EncoderKeys {
    hidden: "n_embd",
    ffn: "n_inner",
    heads: "n_head",
    layers: "n_layer",
    activation: "activation_function",
    context: "n_positions",
    ..ENCODER_KEYS
};

/// Options that mean another network unless they are off.
const NEUTRAL: &[(&str, bool)] = &[
    ("causal", false),
    ("mlp_fc1_bias", false),
    ("mlp_fc2_bias", false),
    ("parallel_block", false),
    ("prenorm", false),
    ("qkv_proj_bias", false),
    ("rotary_emb_interleaved", false),
    ("scale_attn_by_inverse_layer_idx", false),
    ("scale_attn_weights", true),
    ("use_rms_norm", false),
];

/// Options that are not built: frequencies that depend on the input's length.
const FOREIGN: &[&str] = &["rotary_emb_scale_base", "rotary_scaling_factor"];

const NAMES: Names = Names {
    base: "bert.",
    tokens: "embeddings.word_embeddings",
    positions: "",
    segments: "embeddings.token_type_embeddings",
    distance: "",
    embedding_norm: "emb_ln",
    layer: "encoder.layers.",
    qkv: &["attn.Wqkv"],
    qk_norm: ["", ""],
    output: "attn.out_proj",
    attention_norm: "norm1",
    up: &["mlp.fc12", "mlp.fc11"],
    down: "mlp.fc2",
    ffn_norm: "norm2",
    final_norm: "",
    spare: &["pooler.", "cls."],
};

//! GTE in version 1.5 and multilingual, its reranker, and Arctic Embed 2: BERT with rotary positions
//! and a gated MLP.

use kernels::activation::Activation;
use serde_json::json;

use crate::config::Config;
use crate::families::{self, ENCODER_KEYS, EncoderKeys};
use crate::load::LoadError;
use crate::spec::{
    EncoderBias, EncoderSpec, GatedActivation, Mlp, Names, Network, Rope, RopeScaling,
};

/// The spec of a `NewModel`.
pub(crate) fn spec(config: &Config) -> Result<Network, LoadError> {
    encoder(config).map(Network::Encoder)
}

/// The spec of a `NewForSequenceClassification`: BERT's pooler, then the labels.
pub(crate) fn classifier(config: &Config) -> Result<Network, LoadError> {
    let mut spec = encoder(config)?;
    let pooler = ("new.pooler.dense", Activation::Tanh);
    spec.head = families::classifier_head(config, pooler, "classifier", spec.hidden)?;
    Ok(Network::Encoder(spec))
}

fn encoder(config: &Config) -> Result<EncoderSpec, LoadError> {
    config.only("layer_norm_type", &[json!("layer_norm")])?;
    config.only("pack_qkv", &[json!(true)])?;
    config.only("logn_attention_scale", &[json!(false)])?;
    let gate = match families::activation(config, KEYS.activation)? {
        Activation::GeluErf => GatedActivation::GeluErf,
        Activation::GeluTanh => GatedActivation::GeluTanh,
        _ => {
            let allowed = [json!("gelu"), json!("gelu_pytorch_tanh")];
            return Err(config.unsupported(KEYS.activation, &allowed));
        }
    };
    let mut spec = families::encoder_with(config, &KEYS, &NAMES, Mlp::GatedSwapped(gate))?;
    spec.segments = families::segments(config)?.unwrap_or(1);
    spec.bias = EncoderBias {
        up: false,
        ..EncoderBias::ALL
    };
    spec.positions = families::rotary(config, &spec, rope(config)?)?;
    Ok(spec)
}

fn rope(config: &Config) -> Result<Rope, LoadError> {
    if let Some(scaling) = config.object("rope_scaling")?
        && scaling.text("type")? == Some("ntk")
    {
        scaling.without("mixed_b")?;
        let factor = scaling.positive("factor")?;
        return Ok(Rope {
            theta: config.positive_optional("rope_theta")?.unwrap_or(10_000.0),
            scaling: RopeScaling::Ntk { factor },
        });
    }
    families::rope(config)
}

const KEYS: EncoderKeys = EncoderKeys {
    order: "rope",
    ..ENCODER_KEYS
};

const NAMES: Names = Names {
    base: "new.",
    tokens: "embeddings.word_embeddings",
    positions: "",
    segments: "embeddings.token_type_embeddings",
    distance: "",
    embedding_norm: "embeddings.LayerNorm",
    layer: "encoder.layer.",
    qkv: &["attention.qkv_proj"],
    qk_norm: ["", ""],
    output: "attention.o_proj",
    attention_norm: "attn_ln",
    up: &["mlp.up_gate_proj"],
    down: "mlp.down_proj",
    ffn_norm: "mlp_ln",
    final_norm: "",
    spare: &["embeddings.position_ids", "pooler.", "lm_head."],
};

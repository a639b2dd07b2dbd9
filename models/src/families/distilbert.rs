//! DistilBERT.

use kernels::activation::Activation;
use serde_json::json;

use crate::config::Config;
use crate::families::{self, ENCODER_KEYS, EncoderKeys, WordNames};
use crate::load::LoadError;
use crate::spec::{EncoderSpec, Names, Network};

/// The spec of a `DistilBertModel`.
pub(crate) fn spec(config: &Config) -> Result<Network, LoadError> {
    encoder(config).map(Network::Encoder)
}

/// The spec of a `DistilBertForSequenceClassification`.
pub(crate) fn classifier(config: &Config) -> Result<Network, LoadError> {
    let mut spec = encoder(config)?;
    let first = ("pre_classifier", Activation::Relu);
    spec.head = families::classifier_head(config, first, "classifier", spec.hidden)?;
    Ok(Network::Encoder(spec))
}

/// The spec of a `DistilBertForMaskedLM`.
pub(crate) fn masked(config: &Config) -> Result<Network, LoadError> {
    let mut spec = encoder(config)?;
    let activation = families::activation(config, KEYS.activation)?;
    spec.head = families::words_head(config, WORDS, activation, spec.hidden)?;
    Ok(Network::Encoder(spec))
}

/// BERT without segments; the norms' number is the family's own.
fn encoder(config: &Config) -> Result<EncoderSpec, LoadError> {
    config.only("layer_norm_eps", &[json!(1e-12)])?;
    let mut spec = families::encoder(config, &KEYS, &NAMES)?;
    spec.segments = 0;
    Ok(spec)
}

const KEYS: EncoderKeys = EncoderKeys {
    hidden: "dim",
    ffn: "hidden_dim",
    heads: "n_heads",
    layers: "n_layers",
    activation: "activation",
    ..ENCODER_KEYS
};

const WORDS: WordNames = WordNames {
    transform: "vocab_transform",
    norm: "vocab_layer_norm",
    bias: "vocab_projector.bias",
};

const NAMES: Names = Names {
    base: "distilbert.",
    tokens: "embeddings.word_embeddings",
    positions: "embeddings.position_embeddings",
    segments: "",
    distance: "",
    embedding_norm: "embeddings.LayerNorm",
    layer: "transformer.layer.",
    qkv: &["attention.q_lin", "attention.k_lin", "attention.v_lin"],
    qk_norm: ["", ""],
    output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    up: &["ffn.lin1"],
    down: "ffn.lin2",
    ffn_norm: "output_layer_norm",
    final_norm: "",
    spare: &[
        "embeddings.position_ids",
        "vocab_transform.",
        "vocab_layer_norm.",
        "vocab_projector.",
    ],
};

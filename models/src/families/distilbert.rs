//! DistilBERT.

use engine::executor::Pooling;
use kernels::activation::Activation;
use serde_json::json;

use crate::config::Config;
use crate::families::{self, EncoderKeys};
use crate::load::LoadError;
use crate::spec::{Classifier, Dense, EncoderHead, EncoderSpec, Names, Network, Vocabulary};

/// The spec of a `DistilBertModel`.
pub(crate) fn spec(config: &Config) -> Result<Network, LoadError> {
    encoder(config).map(Network::Encoder)
}

/// The spec of a `DistilBertForSequenceClassification`.
pub(crate) fn classifier(config: &Config) -> Result<Network, LoadError> {
    let mut spec = encoder(config)?;
    let info = families::classes(config)?;
    spec.head = EncoderHead::Classifier(Classifier {
        pooling: Pooling::Cls,
        layers: vec![
            families::dense("pre_classifier", spec.hidden, Activation::Relu),
            families::scores("classifier", spec.hidden, &info),
        ],
        info,
    });
    Ok(Network::Encoder(spec))
}

/// The spec of a `DistilBertForMaskedLM`.
pub(crate) fn masked(config: &Config) -> Result<Network, LoadError> {
    families::tied(config)?;
    let mut spec = encoder(config)?;
    let activation = families::activation(config, KEYS.activation)?;
    spec.head = EncoderHead::Vocabulary(Vocabulary {
        transform: Dense {
            norm: Some("vocab_layer_norm"),
            ..families::dense("vocab_transform", spec.hidden, activation)
        },
        bias: Some("vocab_projector.bias"),
    });
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

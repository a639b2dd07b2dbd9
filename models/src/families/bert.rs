//! BERT and what shares its architecture (MiniLM, BGE, E5 and GTE in their first versions).

use engine::executor::Pooling;
use kernels::activation::Activation;

use crate::config::Config;
use crate::families::{self, ENCODER_KEYS};
use crate::load::LoadError;
use crate::spec::{Classifier, Dense, EncoderHead, EncoderSpec, Names, Network, Vocabulary};

/// The spec of a `BertModel`.
pub(crate) fn spec(config: &Config) -> Result<Network, LoadError> {
    encoder(config).map(Network::Encoder)
}

/// The spec of a `BertForSequenceClassification`: BERT's own pooler, then the labels.
pub(crate) fn classifier(config: &Config) -> Result<Network, LoadError> {
    let mut spec = encoder(config)?;
    let info = families::classes(config)?;
    spec.head = EncoderHead::Classifier(Classifier {
        pooling: Pooling::Cls,
        layers: vec![
            families::dense("bert.pooler.dense", spec.hidden, Activation::Tanh),
            families::scores("classifier", spec.hidden, &info),
        ],
        info,
    });
    Ok(Network::Encoder(spec))
}

/// The spec of a `BertForMaskedLM`.
pub(crate) fn masked(config: &Config) -> Result<Network, LoadError> {
    families::tied(config)?;
    let mut spec = encoder(config)?;
    let activation = families::activation(config, ENCODER_KEYS.activation)?;
    spec.head = EncoderHead::Vocabulary(Vocabulary {
        transform: Dense {
            norm: Some("cls.predictions.transform.LayerNorm"),
            ..families::dense("cls.predictions.transform.dense", spec.hidden, activation)
        },
        bias: Some("cls.predictions.bias"),
    });
    Ok(Network::Encoder(spec))
}

fn encoder(config: &Config) -> Result<EncoderSpec, LoadError> {
    families::encoder(config, &ENCODER_KEYS, &NAMES)
}

/// The names that RoBERTa has too.
pub(super) const NAMES: Names = Names {
    base: "bert.",
    tokens: "embeddings.word_embeddings",
    positions: "embeddings.position_embeddings",
    segments: "embeddings.token_type_embeddings",
    distance: "",
    embedding_norm: "embeddings.LayerNorm",
    layer: "encoder.layer.",
    qkv: &[
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
    ],
    output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: &["intermediate.dense"],
    down: "output.dense",
    ffn_norm: "output.LayerNorm",
    final_norm: "",
    spare: &["embeddings.position_ids", "pooler.", "cls."],
};

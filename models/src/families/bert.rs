//! BERT and what shares its architecture (MiniLM, BGE, E5 and GTE in their first versions).

use kernels::activation::Activation;

use crate::config::Config;
use crate::families::{self, ENCODER_KEYS, WordNames};
use crate::load::LoadError;
use crate::spec::{EncoderSpec, Names, Network};

/// The spec of a `BertModel`.
pub(crate) fn spec(config: &Config) -> Result<Network, LoadError> {
    encoder(config).map(Network::Encoder)
}

/// The spec of a `BertForSequenceClassification`: BERT's own pooler, then the labels.
pub(crate) fn classifier(config: &Config) -> Result<Network, LoadError> {
    let mut spec = encoder(config)?;
    let pooler = ("bert.pooler.dense", Activation::Tanh);
    spec.head = families::classifier_head(config, pooler, "classifier", spec.hidden)?;
    Ok(Network::Encoder(spec))
}

/// The spec of a `BertForMaskedLM`.
pub(crate) fn masked(config: &Config) -> Result<Network, LoadError> {
    let mut spec = encoder(config)?;
    let activation = families::activation(config, ENCODER_KEYS.activation)?;
    spec.head = families::words_head(config, WORDS, activation, spec.hidden)?;
    Ok(Network::Encoder(spec))
}

fn encoder(config: &Config) -> Result<EncoderSpec, LoadError> {
    families::encoder(config, &ENCODER_KEYS, &NAMES)
}

const WORDS: WordNames = WordNames {
    transform: "cls.predictions.transform.dense",
    norm: "cls.predictions.transform.LayerNorm",
    bias: "cls.predictions.bias",
};

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
    qk_norm: ["", ""],
    output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: &["intermediate.dense"],
    down: "output.dense",
    ffn_norm: "output.LayerNorm",
    final_norm: "",
    spare: &["embeddings.position_ids", "pooler.", "cls."],
};

//! RoBERTa, XLM-RoBERTa and CamemBERT (multilingual E5, BGE-M3, BGE rerankers).

use kernels::activation::Activation;

use crate::config::Config;
use crate::families::{self, ENCODER_KEYS, WordNames, bert};
use crate::load::LoadError;
use crate::spec::{EncoderSpec, Names, Network, Positions};

/// The spec of a `RobertaModel`.
pub(crate) fn spec(config: &Config) -> Result<Network, LoadError> {
    encoder(config).map(Network::Encoder)
}

/// The spec of a `RobertaForSequenceClassification`.
pub(crate) fn classifier(config: &Config) -> Result<Network, LoadError> {
    let mut spec = encoder(config)?;
    spec.head = families::classifier_head(config, FIRST, LAST, spec.hidden)?;
    Ok(Network::Encoder(spec))
}

/// The spec of a `RobertaForMaskedLM`, whose head has GELU whatever the layers have.
pub(crate) fn masked(config: &Config) -> Result<Network, LoadError> {
    let mut spec = encoder(config)?;
    spec.head = families::words_head(config, WORDS, Activation::GeluErf, spec.hidden)?;
    Ok(Network::Encoder(spec))
}

/// BERT with positions that begin after padding's.
fn encoder(config: &Config) -> Result<EncoderSpec, LoadError> {
    let mut spec = families::encoder(config, &ENCODER_KEYS, &NAMES)?;
    let padding = match config.tokens("pad_token_id")?.as_deref() {
        None => 1,
        Some([padding]) => *padding as usize,
        Some(_) => return Err(config.wrong("pad_token_id", "a token id")),
    };
    if let Positions::Table { rows, first } = &mut spec.positions {
        *first = padding + 1;
        if *first >= *rows {
            let expected = format!("more than pad_token_id + 1 = {first}");
            return Err(config.wrong("max_position_embeddings", &expected));
        }
    }
    Ok(spec)
}

// The names of the heads, which MPNet has too.
pub(super) const FIRST: (&str, Activation) = ("classifier.dense", Activation::Tanh);
pub(super) const LAST: &str = "classifier.out_proj";
pub(super) const WORDS: WordNames = WordNames {
    transform: "lm_head.dense",
    norm: "lm_head.layer_norm",
    bias: "lm_head.bias",
};

const NAMES: Names = Names {
    base: "roberta.",
    spare: &["embeddings.position_ids", "pooler.", "lm_head."],
    ..bert::NAMES
};

//! MPNet (all-mpnet-base and its kin).

use kernels::activation::Activation;
use serde_json::json;

use crate::config::Config;
use crate::families::roberta::{FIRST, LAST, WORDS};
use crate::families::{self, ENCODER_KEYS};
use crate::load::LoadError;
use crate::spec::{Distance, DistanceBuckets, EncoderSpec, Names, Network, Positions};

/// The spec of an `MPNetModel`.
pub(crate) fn spec(config: &Config) -> Result<Network, LoadError> {
    encoder(config).map(Network::Encoder)
}

/// The spec of an `MPNetForSequenceClassification`.
pub(crate) fn classifier(config: &Config) -> Result<Network, LoadError> {
    let mut spec = encoder(config)?;
    spec.head = families::classifier_head(config, FIRST, LAST, spec.hidden)?;
    Ok(Network::Encoder(spec))
}

/// The spec of an `MPNetForMaskedLM`, whose head has GELU whatever the layers have.
pub(crate) fn masked(config: &Config) -> Result<Network, LoadError> {
    let mut spec = encoder(config)?;
    spec.head = families::words_head(config, WORDS, Activation::GeluErf, spec.hidden)?;
    Ok(Network::Encoder(spec))
}

/// BERT without segments, with positions after those of padding (id 1, whatever the file says), and
/// a bias by distance in every layer, of one table.
fn encoder(config: &Config) -> Result<EncoderSpec, LoadError> {
    config.only("relative_attention_num_buckets", &[json!(BUCKETS)])?;
    let mut spec = families::encoder(config, &ENCODER_KEYS, &NAMES)?;
    spec.segments = 0;
    spec.distance = Some(Distance::Buckets(DistanceBuckets {
        buckets: BUCKETS,
        distance_max: DISTANCE_MAX,
    }));
    if let Positions::Table { rows, first } = &mut spec.positions {
        *first = 2;
        if *first >= *rows {
            return Err(config.wrong("max_position_embeddings", "more than 2"));
        }
    }
    Ok(spec)
}

/// The published code fixes both.
const BUCKETS: usize = 32;
const DISTANCE_MAX: usize = 128;

const NAMES: Names = Names {
    base: "mpnet.",
    tokens: "embeddings.word_embeddings",
    positions: "embeddings.position_embeddings",
    segments: "",
    distance: "encoder.relative_attention_bias",
    embedding_norm: "embeddings.LayerNorm",
    layer: "encoder.layer.",
    qkv: &["attention.attn.q", "attention.attn.k", "attention.attn.v"],
    qk_norm: ["", ""],
    output: "attention.attn.o",
    attention_norm: "attention.LayerNorm",
    up: &["intermediate.dense"],
    down: "output.dense",
    ffn_norm: "output.LayerNorm",
    final_norm: "",
    spare: &["embeddings.position_ids", "pooler.", "lm_head."],
};

//! One short file a family: from its `config.json` to a spec. What the families share is here.

pub(crate) mod bert;
pub(crate) mod distilbert;
pub(crate) mod gte;
pub(crate) mod jina;
pub(crate) mod llama;
pub(crate) mod mistral;
pub(crate) mod modernbert;
pub(crate) mod mpnet;
pub(crate) mod nomic;
pub(crate) mod qwen2;
pub(crate) mod qwen3;
pub(crate) mod roberta;

use engine::executor::Pooling;
use kernels::activation::Activation;
use kernels::attention::Look;
use serde_json::{Value, json};

use crate::config::Config;
use crate::load::{ClassifyInfo, LoadError, Problem};
use crate::spec::{
    Bias, Classifier, DecoderSpec, Dense, EncoderBias, EncoderHead, EncoderSpec, GatedActivation,
    Head, Mlp, Names, NormKind, Norms, Positions, QkNorm, Rope, RopeScaling, Vocabulary,
};

/// Values that transformers takes when a family's `config.json` leaves the key out.
#[derive(Clone, Copy, Debug)]
struct Defaults {
    /// `num_key_value_heads`; `None` is as many as there are heads.
    kv_heads: Option<u32>,
    /// `head_dim`; `None` is `hidden_size / num_attention_heads`.
    head_dim: Option<u32>,
}

/// The spec that all families of today start from: no bias, no window, no q/k norm.
fn decoder(config: &Config, defaults: Defaults) -> Result<DecoderSpec, LoadError> {
    refuse_strangers(config)?;
    let hidden = config.count("hidden_size", WIDTH_MAX)?;
    let heads = config.count("num_attention_heads", HEADS_MAX)?;
    let kv_heads = config
        .count_optional("num_key_value_heads", HEADS_MAX)?
        .or(defaults.kv_heads)
        .unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        let expected = format!("a divisor of num_attention_heads = {heads}");
        return Err(config.wrong("num_key_value_heads", &expected));
    }
    let layers = config.count("num_hidden_layers", LAYERS_MAX)?;
    let activation = match config.text("hidden_act")?.unwrap_or("silu") {
        "silu" => GatedActivation::Silu,
        "gelu_pytorch_tanh" => GatedActivation::GeluTanh,
        _ => {
            let allowed = [json!("silu"), json!("gelu_pytorch_tanh")];
            return Err(config.unsupported("hidden_act", &allowed));
        }
    };
    Ok(DecoderSpec {
        vocab: config.count("vocab_size", VOCAB_MAX)? as usize,
        hidden: hidden as usize,
        ffn: config.count("intermediate_size", WIDTH_MAX)? as usize,
        heads: heads as usize,
        kv_heads: kv_heads as usize,
        head_dim: head_dim(config, defaults, hidden, heads)? as usize,
        context_max: config.count("max_position_embeddings", CONTEXT_MAX)?,
        norm_eps: config.positive_optional("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        rope: rope(config)?,
        qk_norm: QkNorm::None,
        bias: Bias::default(),
        activation,
        head: if config.flag("tie_word_embeddings", false)? {
            Head::Tied
        } else {
            Head::Own
        },
        windows: vec![None; layers as usize],
    })
}

fn head_dim(
    config: &Config,
    defaults: Defaults,
    hidden: u32,
    heads: u32,
) -> Result<u32, LoadError> {
    let head_dim = config
        .count_optional("head_dim", HEAD_DIM_MAX)?
        .or(defaults.head_dim);
    let head_dim = match head_dim {
        Some(head_dim) => head_dim,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            let expected = format!("a divisor of hidden_size = {hidden}");
            return Err(config.wrong("num_attention_heads", &expected));
        }
    };
    if head_dim.is_multiple_of(2) && head_dim <= HEAD_DIM_MAX {
        return Ok(head_dim);
    }
    Err(config.error(format!(
        "head_dim = {head_dim}: expected an even number of at most {HEAD_DIM_MAX}"
    )))
}

/// The rotary embedding, from the keys of transformers 5 (`rope_parameters`) or of 4 and before
/// (`rope_theta`, `rope_scaling`).
///
/// Of both together transformers 5 reads `rope_scaling` alone, even without a base in it: hardly
/// what such a file means.
fn rope(config: &Config) -> Result<Rope, LoadError> {
    let key = match (
        config.value("rope_parameters"),
        config.value("rope_scaling"),
    ) {
        (Some(_), Some(_)) => {
            return Err(config.error("rope_scaling stands beside rope_parameters".to_owned()));
        }
        (Some(_), None) => "rope_parameters",
        _ => "rope_scaling",
    };
    let scaling = config.object(key)?;
    let inner = match &scaling {
        Some(scaling) => scaling.positive_optional("rope_theta")?,
        None => None,
    };
    let theta = inner
        .or(config.positive_optional("rope_theta")?)
        .unwrap_or(10_000.0);
    let scaling = scaling
        .as_ref()
        .map_or(Ok(RopeScaling::Default), rope_scaling)?;
    Ok(Rope { theta, scaling })
}

fn rope_scaling(config: &Config) -> Result<RopeScaling, LoadError> {
    config.only("partial_rotary_factor", &[json!(1.0)])?;
    let key = if config.value("rope_type").is_some() {
        "rope_type"
    } else {
        "type"
    };
    match config.text(key)? {
        Some("default") => Ok(RopeScaling::Default),
        Some("linear") => Ok(RopeScaling::Linear {
            factor: config.positive("factor")?,
        }),
        Some("llama3") => {
            let low = config.positive("low_freq_factor")?;
            let high = config.positive("high_freq_factor")?;
            if high <= low {
                let expected = format!("more than low_freq_factor = {low}");
                return Err(config.wrong("high_freq_factor", &expected));
            }
            Ok(RopeScaling::Llama3 {
                factor: config.positive("factor")?,
                low,
                high,
                original_context: config.positive("original_max_position_embeddings")?,
            })
        }
        Some(_) => {
            Err(config.unsupported(key, &[json!("default"), json!("linear"), json!("llama3")]))
        }
        // A base alone scales nothing.
        None if config.entries().all(|(key, _)| key == "rope_theta") => Ok(RopeScaling::Default),
        None => Err(config.missing("rope_type")),
    }
}

/// The window of each layer, where all layers have `sliding_window` unless `layer_types` says
/// which.
fn windows(
    config: &Config,
    window: Option<u32>,
    layers: usize,
) -> Result<Vec<Option<u32>>, LoadError> {
    let Some(types) = config.texts("layer_types")? else {
        return Ok(vec![window; layers]);
    };
    if types.len() != layers {
        let expected = format!("one entry for each of {layers} layers");
        return Err(config.wrong("layer_types", &expected));
    }
    types
        .into_iter()
        .map(|layer| match (layer, window) {
            ("full_attention", _) => Ok(None),
            ("sliding_attention", Some(window)) => Ok(Some(window)),
            ("sliding_attention", None) => Err(config.missing("sliding_window")),
            _ => Err(config.unsupported(
                "layer_types",
                &[json!("full_attention"), json!("sliding_attention")],
            )),
        })
        .collect()
}

/// What a family of encoders calls the sizes in its `config.json`.
#[derive(Clone, Copy, Debug)]
struct EncoderKeys {
    hidden: &'static str,
    ffn: &'static str,
    heads: &'static str,
    layers: &'static str,
    activation: &'static str,
    context: &'static str,
    /// What `position_embedding_type` may say.
    order: &'static str,
}

/// The keys of most.
const ENCODER_KEYS: EncoderKeys = EncoderKeys {
    hidden: "hidden_size",
    ffn: "intermediate_size",
    heads: "num_attention_heads",
    layers: "num_hidden_layers",
    activation: "hidden_act",
    context: "max_position_embeddings",
    order: "absolute",
};

/// The spec that the families after BERT start from: norms after blocks, biases everywhere, a plain
/// MLP, a table of positions, one segment table of `type_vocab_size` rows.
fn encoder(
    config: &Config,
    keys: &EncoderKeys,
    names: &'static Names,
) -> Result<EncoderSpec, LoadError> {
    let mlp = Mlp::Plain(activation(config, keys.activation)?);
    encoder_with(config, keys, names, mlp)
}

/// The same with another MLP.
fn encoder_with(
    config: &Config,
    keys: &EncoderKeys,
    names: &'static Names,
    mlp: Mlp,
) -> Result<EncoderSpec, LoadError> {
    config.without("quantization_config")?;
    config.only("position_embedding_type", &[json!(keys.order)])?;
    config.only("is_decoder", &[json!(false)])?;
    config.only("add_cross_attention", &[json!(false)])?;
    let hidden = config.count(keys.hidden, WIDTH_MAX)?;
    let heads = config.count(keys.heads, HEADS_MAX)?;
    if !hidden.is_multiple_of(heads) {
        let expected = format!("a divisor of {} = {hidden}", keys.hidden);
        return Err(config.wrong(keys.heads, &expected));
    }
    if hidden / heads > HEAD_DIM_MAX {
        let expected = format!(
            "heads of at most {HEAD_DIM_MAX} of {} = {hidden}",
            keys.hidden
        );
        return Err(config.wrong(keys.heads, &expected));
    }
    let layers = config.count(keys.layers, LAYERS_MAX)? as usize;
    let rows = config.count(keys.context, CONTEXT_MAX)? as usize;
    Ok(EncoderSpec {
        vocab: config.count("vocab_size", VOCAB_MAX)? as usize,
        hidden: hidden as usize,
        ffn: config.count(keys.ffn, WIDTH_MAX)? as usize,
        heads: heads as usize,
        kv_heads: heads as usize,
        head_dim: (hidden / heads) as usize,
        look: Look::Around,
        windows: vec![None; layers],
        positions: Positions::Table { rows, first: 0 },
        distance: None,
        qk_norm: QkNorm::None,
        segments: segments(config)?.unwrap_or(2),
        norm: NormKind::Biased,
        norm_eps: config.positive_optional("layer_norm_eps")?.unwrap_or(1e-12) as f32,
        norms: Norms::After,
        bias: EncoderBias::ALL,
        mlp,
        head: EncoderHead::Vectors(Vec::new()),
        names,
    })
}

/// Rows of the segment embedding, which may be none.
fn segments(config: &Config) -> Result<Option<usize>, LoadError> {
    if config.value("type_vocab_size").and_then(Value::as_u64) == Some(0) {
        return Ok(Some(0));
    }
    let rows = config.count_optional("type_vocab_size", SEGMENTS_MAX)?;
    Ok(rows.map(|rows| rows as usize))
}

/// Positions that turn queries and keys by `rope` in all layers.
fn rotary(config: &Config, spec: &EncoderSpec, rope: Rope) -> Result<Positions, LoadError> {
    if !spec.head_dim.is_multiple_of(2) {
        let message = format!("heads of {} values: expected an even number", spec.head_dim);
        return Err(config.error(message));
    }
    Ok(Positions::Rotary {
        context: spec.context(),
        full: rope,
        windowed: None,
    })
}

/// The activation that a key names; "gelu" where there is none.
fn activation(config: &Config, key: &str) -> Result<Activation, LoadError> {
    match config.text(key)?.unwrap_or("gelu") {
        "gelu" => Ok(Activation::GeluErf),
        "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        _ => {
            let allowed = ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu"];
            Err(config.unsupported(key, &allowed.map(Value::from)))
        }
    }
}

/// The head of a classifier whose first layer reads the first token's vector.
fn classifier_head(
    config: &Config,
    (first, activation): (&'static str, Activation),
    last: &'static str,
    width: usize,
) -> Result<EncoderHead, LoadError> {
    let info = classes(config)?;
    Ok(EncoderHead::Classifier(Classifier {
        pooling: Pooling::Cls,
        layers: vec![dense(first, width, activation), scores(last, width, &info)],
        info,
    }))
}

/// What a masked language model's head is called.
#[derive(Clone, Copy, Debug)]
struct WordNames {
    transform: &'static str,
    norm: &'static str,
    bias: &'static str,
}

/// The head of a masked language model whose words are the token embedding's.
fn words_head(
    config: &Config,
    names: WordNames,
    activation: Activation,
    width: usize,
) -> Result<EncoderHead, LoadError> {
    tied(config)?;
    Ok(EncoderHead::Vocabulary(Vocabulary {
        transform: Dense {
            norm: Some(names.norm),
            ..dense(names.transform, width, activation)
        },
        bias: Some(names.bias),
    }))
}

/// A layer of a head that keeps the width, with a bias.
fn dense(name: &'static str, width: usize, activation: Activation) -> Dense {
    Dense {
        name,
        inputs: width,
        outputs: width,
        bias: true,
        activation: Some(activation),
        norm: None,
    }
}

/// The last layer of a classifier: a score for each label.
fn scores(name: &'static str, width: usize, info: &ClassifyInfo) -> Dense {
    Dense {
        name,
        inputs: width,
        outputs: info.labels.len(),
        bias: true,
        activation: None,
        norm: None,
    }
}

/// The labels of a classifier, in the order of their numbers, and what its scores mean.
fn classes(config: &Config) -> Result<ClassifyInfo, LoadError> {
    let labels = if let Some(names) = config.object("id2label")? {
        labels(config, &names)?
    } else {
        let count = config.count_optional("num_labels", LABELS_MAX)?;
        (0..count.unwrap_or(2))
            .map(|number| format!("LABEL_{number}"))
            .collect()
    };
    let problem = match config.text("problem_type")? {
        None => None,
        Some("regression") => Some(Problem::Regression),
        Some("single_label_classification") => Some(Problem::SingleLabel),
        Some("multi_label_classification") => Some(Problem::MultiLabel),
        Some(_) => {
            let expected = "regression, single_label_classification or multi_label_classification";
            return Err(config.wrong("problem_type", expected));
        }
    };
    Ok(ClassifyInfo { labels, problem })
}

fn labels(config: &Config, names: &Config) -> Result<Vec<String>, LoadError> {
    let count = names.entries().count();
    if count == 0 || count > LABELS_MAX as usize {
        let expected = format!("1 to {LABELS_MAX} labels");
        return Err(config.wrong("id2label", &expected));
    }
    (0..count)
        .map(|number| match names.text(&number.to_string())? {
            Some(label) => Ok(label.to_owned()),
            None => Err(names.missing(&number.to_string())),
        })
        .collect()
}

/// That a masked language model's last layer is its token embedding.
fn tied(config: &Config) -> Result<(), LoadError> {
    config.only("tie_word_embeddings", &[json!(true)])
}

/// Refuses options of other families: a file that sets one means another network than ours.
fn refuse_strangers(config: &Config) -> Result<(), LoadError> {
    for (key, neutral) in NEUTRAL {
        config.only(key, &[json!(neutral)])?;
    }
    for key in FOREIGN {
        config.without(key)?;
    }
    Ok(())
}

/// Numbers that change the result unless they have this value.
const NEUTRAL: &[(&str, f64)] = &[
    ("attention_multiplier", 1.0),
    ("embedding_multiplier", 1.0),
    ("logit_scale", 1.0),
    ("logits_scaling", 1.0),
    ("partial_rotary_factor", 1.0),
    ("residual_multiplier", 1.0),
    ("rotary_pct", 1.0),
];

/// Options no family of today has.
const FOREIGN: &[&str] = &[
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "kv_lora_rank",
    "no_rope_layers",
    "num_experts",
    "num_local_experts",
    "quantization_config",
    "query_pre_attn_scalar",
    "use_qk_norm",
];

// Bounds on what a file may ask for, far above any model, so that no product overflows.
const WIDTH_MAX: u32 = 1 << 20;
const HEADS_MAX: u32 = 1 << 12;
const HEAD_DIM_MAX: u32 = 256;
const LAYERS_MAX: u32 = 1 << 12;
const VOCAB_MAX: u32 = 1 << 24;
const CONTEXT_MAX: u32 = 1 << 28;
const LABELS_MAX: u32 = 1 << 16;
const SEGMENTS_MAX: u32 = 256;

#[cfg(test)]
mod tests;

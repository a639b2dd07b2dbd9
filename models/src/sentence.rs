//! What the files of sentence-transformers say about an encoder's vectors.

use engine::executor::Pooling;
use kernels::activation::Activation;
use serde_json::{Value, json};

use crate::config::Config;
use crate::files::ModelFiles;
use crate::load::LoadError;
use crate::spec::{Dense, DenseModule, EncoderSpec};

/// What the files say.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sentence {
    /// What becomes of the tokens' vectors.
    pub(crate) modules: Modules,
    /// Longest input in tokens.
    pub(crate) input_tokens_max: u32,
}

/// What `modules.json` says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Modules {
    /// There is no such file.
    Absent,
    /// They become one vector.
    Vectors {
        /// How.
        pooling: Pooling,
        /// What it goes through then.
        dense: Vec<DenseModule>,
        /// Whether it is scaled to length one in the end.
        normalize: bool,
    },
    /// They become weights of words, by a masked language model's head.
    Splade,
}

/// Whether there is a `modules.json`.
pub(crate) fn is_there(files: &ModelFiles) -> Result<bool, LoadError> {
    Ok(files.has(MODULES)?)
}

/// Reads `modules.json` and what it names.
pub(crate) fn read(files: &ModelFiles, spec: &EncoderSpec) -> Result<Sentence, LoadError> {
    let context = spec.context() as u32;
    let mut input_tokens_max = context;
    if let Some(bytes) = files.read_optional(SENTENCE)? {
        let config = Config::parse(SENTENCE, &bytes)?;
        let length = config.count_optional("max_seq_length", u32::MAX)?;
        input_tokens_max = length.map_or(context, |length| length.min(context));
        if config.flag("do_lower_case", false)? && !tokenizer_lowers(files)? {
            return Err(config.unsupported("do_lower_case", &[json!(false)]));
        }
    }
    let modules = match files.read_optional(MODULES)? {
        None => Modules::Absent,
        Some(bytes) => modules(files, &bytes, spec.hidden)?,
    };
    Ok(Sentence {
        modules,
        input_tokens_max,
    })
}

fn modules(files: &ModelFiles, bytes: &[u8], hidden: usize) -> Result<Modules, LoadError> {
    let list = Config::parse_list(MODULES, bytes)?;
    let kinds: Vec<Module> = list.iter().map(kind).collect::<Result<_, _>>()?;
    let refusal = || {
        LoadError::Unsupported(format!(
            "{MODULES}: {kinds:?} (only Transformer, Pooling, any number of Dense, and perhaps \
             Normalize, or Transformer and SpladePooling, in this order)"
        ))
    };
    let [Module::Transformer, rest @ ..] = kinds.as_slice() else {
        return Err(refusal());
    };
    // The network's own files are read from the folder itself.
    list[0].only("path", &[json!("")])?;
    if rest == [Module::SpladePooling] {
        splade(files, folder(&list[1])?)?;
        return Ok(Modules::Splade);
    }
    let [Module::Pooling, rest @ ..] = rest else {
        return Err(refusal());
    };
    let normalize = rest.last() == Some(&Module::Normalize);
    let count = rest.len() - usize::from(normalize);
    if rest[..count].iter().any(|kind| *kind != Module::Dense) {
        return Err(refusal());
    }
    let mut width = hidden;
    let mut dense = Vec::new();
    for module in &list[2..2 + count] {
        let module = dense_module(files, folder(module)?, width)?;
        width = module.layer.outputs;
        dense.push(module);
    }
    Ok(Modules::Vectors {
        pooling: pooling(files, folder(&list[1])?)?,
        dense,
        normalize,
    })
}

/// A step from text to vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Module {
    Transformer,
    Pooling,
    Dense,
    Normalize,
    SpladePooling,
}

fn kind(module: &Config) -> Result<Module, LoadError> {
    let class = module.text("type")?.unwrap_or_default();
    match class.rsplit('.').next().unwrap_or_default() {
        "Transformer" | "MLMTransformer" => Ok(Module::Transformer),
        "Pooling" => Ok(Module::Pooling),
        "Dense" => Ok(Module::Dense),
        "Normalize" => Ok(Module::Normalize),
        "SpladePooling" => Ok(Module::SpladePooling),
        _ => {
            let allowed = [
                "Transformer",
                "Pooling",
                "Dense",
                "Normalize",
                "SpladePooling",
            ];
            Err(module.unsupported("type", &allowed.map(Value::from)))
        }
    }
}

fn folder(module: &Config) -> Result<&str, LoadError> {
    module.text("path")?.ok_or_else(|| module.missing("path"))
}

/// A Dense module that takes vectors of `width`.
fn dense_module(files: &ModelFiles, folder: &str, width: usize) -> Result<DenseModule, LoadError> {
    let file = format!("{folder}/config.json");
    let config = Config::parse(&file, &files.read(&file)?)?;
    for key in ["module_input_name", "module_output_name"] {
        config.only(key, &[json!("sentence_embedding")])?;
    }
    config.only("use_residual", &[json!(false)])?;
    if config.count("in_features", WIDTH_MAX)? as usize != width {
        return Err(config.wrong("in_features", &width.to_string()));
    }
    let activation = config.text("activation_function")?.unwrap_or("Tanh");
    let activation = match activation.rsplit('.').next().unwrap_or_default() {
        "Identity" => None,
        "Tanh" => Some(Activation::Tanh),
        "ReLU" => Some(Activation::Relu),
        "GELU" => Some(Activation::GeluErf),
        _ => {
            let allowed = ["Identity", "Tanh", "ReLU", "GELU"].map(Value::from);
            return Err(config.unsupported("activation_function", &allowed));
        }
    };
    Ok(DenseModule {
        folder: folder.to_owned(),
        layer: Dense {
            name: "linear",
            inputs: width,
            outputs: config.count("out_features", WIDTH_MAX)? as usize,
            bias: config.flag("bias", true)?,
            activation,
            norm: None,
        },
    })
}

/// Refuses other ways to weigh words than the usual one.
fn splade(files: &ModelFiles, folder: &str) -> Result<(), LoadError> {
    let file = format!("{folder}/config.json");
    let config = Config::parse(&file, &files.read(&file)?)?;
    config.only("pooling_strategy", &[json!("max")])?;
    config.only("activation_function", &[json!("relu")])
}

/// Whether the tokenizer turns text into lower case by itself, so that nobody else has to. A
/// folder without one has no text either.
fn tokenizer_lowers(files: &ModelFiles) -> Result<bool, LoadError> {
    let Some(bytes) = files.read_optional(TOKENIZER)? else {
        return Ok(true);
    };
    let tokenizer = Config::parse(TOKENIZER, &bytes)?;
    Ok(tokenizer.value("normalizer").is_some_and(lowers))
}

fn lowers(normalizer: &Value) -> bool {
    normalizer["type"] == "Lowercase"
        || normalizer["lowercase"] == true
        || normalizer["normalizers"]
            .as_array()
            .is_some_and(|parts| parts.iter().any(lowers))
}

fn pooling(files: &ModelFiles, folder: &str) -> Result<Pooling, LoadError> {
    let file = format!("{folder}/config.json");
    let config = Config::parse(&file, &files.read(&file)?)?;
    for mode in ["max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens"] {
        config.only(&format!("pooling_mode_{mode}"), &[json!(false)])?;
    }
    config.only("include_prompt", &[json!(true)])?;
    let modes = [
        ("pooling_mode_cls_token", Pooling::Cls),
        ("pooling_mode_mean_tokens", Pooling::Mean),
        ("pooling_mode_lasttoken", Pooling::LastToken),
    ];
    let mut chosen = Vec::new();
    for (key, pooling) in modes {
        if config.flag(key, false)? {
            chosen.push(pooling);
        }
    }
    match chosen.as_slice() {
        [single] => Ok(*single),
        _ => Err(config.error("expected exactly one pooling mode that is true".to_owned())),
    }
}

/// Far above any vector.
const WIDTH_MAX: u32 = 1 << 20;
const TOKENIZER: &str = "tokenizer.json";
const MODULES: &str = "modules.json";
const SENTENCE: &str = "sentence_bert_config.json";

#[cfg(test)]
mod tests;

//! What the files of sentence-transformers say about an encoder's vectors.

use engine::executor::Pooling;
use serde_json::{Value, json};

use crate::config::Config;
use crate::files::ModelFiles;
use crate::load::{EmbeddingInfo, LoadError};
use crate::spec::{EncoderSpec, POOLING_DEFAULT};

/// What the files say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sentence {
    /// How to make vectors.
    pub(crate) embedding: EmbeddingInfo,
    /// Longest input in tokens.
    pub(crate) input_tokens_max: u32,
}

/// Reads `modules.json` and what it names; without it, means of all tokens, not normalised, as
/// sentence-transformers itself does.
pub(crate) fn read(files: &ModelFiles, spec: &EncoderSpec) -> Result<Sentence, LoadError> {
    let positions = spec.positions as u32;
    let mut info = Sentence {
        embedding: EmbeddingInfo {
            pooling: POOLING_DEFAULT,
            normalize: false,
            width: spec.hidden as u32,
        },
        input_tokens_max: positions,
    };
    if let Some(bytes) = files.read_optional(SENTENCE)? {
        let config = Config::parse(SENTENCE, &bytes)?;
        let length = config.count_optional("max_seq_length", u32::MAX)?;
        info.input_tokens_max = length.map_or(positions, |length| length.min(positions));
        if config.flag("do_lower_case", false)? && !tokenizer_lowers(files)? {
            return Err(config.unsupported("do_lower_case", &[json!(false)]));
        }
    }
    if let Some(bytes) = files.read_optional(MODULES)? {
        let modules = Config::parse_list(MODULES, &bytes)?;
        let mut kinds = Vec::new();
        for module in &modules {
            kinds.push(kind(module)?);
        }
        if !matches!(
            kinds.as_slice(),
            [Module::Transformer, Module::Pooling]
                | [Module::Transformer, Module::Pooling, Module::Normalize]
        ) {
            return Err(LoadError::Unsupported(format!(
                "{MODULES}: {kinds:?} (only Transformer, Pooling, and perhaps Normalize, in this order)"
            )));
        }
        // The network's own files are read from the folder itself.
        modules[0].only("path", &[json!("")])?;
        let folder = modules[1].text("path")?;
        info.embedding.pooling = pooling(files, folder.ok_or_else(|| modules[1].missing("path"))?)?;
        info.embedding.normalize = kinds.len() == 3;
    }
    Ok(info)
}

/// A step from text to vector.
#[derive(Clone, Copy, Debug)]
enum Module {
    Transformer,
    Pooling,
    Normalize,
}

fn kind(module: &Config) -> Result<Module, LoadError> {
    let class = module.text("type")?.unwrap_or_default();
    match class.rsplit('.').next().unwrap_or_default() {
        "Transformer" => Ok(Module::Transformer),
        "Pooling" => Ok(Module::Pooling),
        "Normalize" => Ok(Module::Normalize),
        _ => {
            let allowed = ["Transformer", "Pooling", "Normalize"].map(Value::from);
            Err(module.unsupported("type", &allowed))
        }
    }
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

const TOKENIZER: &str = "tokenizer.json";
const MODULES: &str = "modules.json";
const SENTENCE: &str = "sentence_bert_config.json";

#[cfg(test)]
mod tests;

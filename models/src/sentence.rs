//! What the files of sentence-transformers say about an encoder's vectors.

use engine::executor::Pooling;
use serde_json::{Value, json};

use crate::config::Config;
use crate::files::ModelFiles;
use crate::load::{EmbeddingInfo, LoadError};
use crate::spec::POOLING_DEFAULT;

/// Reads `modules.json` and what it names; without it, means of all tokens, not normalised, as
/// sentence-transformers itself does. `positions` is the longest input of the network.
pub(crate) fn embedding(files: &ModelFiles, positions: u32) -> Result<EmbeddingInfo, LoadError> {
    let mut info = EmbeddingInfo {
        pooling: POOLING_DEFAULT,
        normalize: false,
        input_tokens_max: positions,
    };
    if let Some(bytes) = files.read_optional(SENTENCE)? {
        let config = Config::parse(SENTENCE, &bytes)?;
        let length = config.count_optional("max_seq_length", u32::MAX)?;
        info.input_tokens_max = length.map_or(positions, |length| length.min(positions));
    }
    if let Some(bytes) = files.read_optional(MODULES)? {
        for module in modules(&bytes)? {
            let class = module.text("type")?.unwrap_or_default();
            match class.rsplit('.').next().unwrap_or_default() {
                "Transformer" => {}
                "Pooling" => {
                    let folder = module.text("path")?.unwrap_or("1_Pooling");
                    info.pooling = pooling(files, folder)?;
                }
                "Normalize" => info.normalize = true,
                _ => {
                    let allowed = ["Transformer", "Pooling", "Normalize"].map(Value::from);
                    return Err(module.unsupported("type", &allowed));
                }
            }
        }
    }
    Ok(info)
}

/// The entries of `modules.json`, a list.
fn modules(bytes: &[u8]) -> Result<Vec<Config>, LoadError> {
    let wrapped = [br#"{"modules":"#, bytes, b"}"].concat();
    Config::parse(MODULES, &wrapped)?.objects("modules")
}

fn pooling(files: &ModelFiles, folder: &str) -> Result<Pooling, LoadError> {
    let file = format!("{folder}/config.json");
    let config = Config::parse(&file, &files.read(&file)?)?;
    for mode in ["max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens"] {
        config.only(&format!("pooling_mode_{mode}"), &[json!(false)])?;
    }
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

const MODULES: &str = "modules.json";
const SENTENCE: &str = "sentence_bert_config.json";

#[cfg(test)]
mod tests;

//! Which files of a repository are needed: what a folder of ours has, and nothing else. The first
//! step takes what describes the model, the second its weights, so that weights in the cache mean
//! that the rest is there too.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::answer::Remote;
use crate::error::HubError;
use crate::id::{ModelId, is_path, shortened};

/// How much of a model is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// What says what it is: enough for a memory plan.
    Config,
    /// All but the weights.
    Description,
    /// All that is needed to serve it.
    Everything,
}

/// The file of the network's shape; no model is without.
pub(crate) const CONFIG: &str = "config.json";
/// Weights in one file, which counts before an index.
pub(crate) const SINGLE: &str = "model.safetensors";
/// The list of files that weights are spread over.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// The files of the first step.
pub(crate) fn description<'a>(
    files: &'a [Remote],
    want: Want,
    model: &ModelId,
) -> Result<Vec<&'a Remote>, HubError> {
    let has = |name: &str| files.iter().any(|file| file.path == name);
    if !has(CONFIG) {
        return Err(HubError::Incomplete {
            model: model.clone(),
            file: CONFIG.to_owned(),
        });
    }
    if want == Want::Everything && !has(SINGLE) && !has(INDEX) {
        return Err(no_weights(files, model));
    }
    let sharded = want == Want::Everything && !has(SINGLE);
    let wanted = |path: &str| match want {
        Want::Config => is_config(path),
        Want::Description => is_config(path) || is_text(path),
        Want::Everything => is_config(path) || is_text(path) || sharded && path == INDEX,
    };
    let chosen: Vec<&Remote> = files.iter().filter(|file| wanted(&file.path)).collect();
    match chosen.iter().find(|file| file.bytes > SMALL_BYTES_MAX) {
        Some(file) => Err(HubError::Answer {
            place: model.to_string(),
            message: format!(
                "{} has {} bytes, which none such has",
                file.path, file.bytes
            ),
        }),
        None => Ok(chosen),
    }
}

/// The files of the second step: the weights, of which `index` names the parts.
pub(crate) fn weights<'a>(
    files: &'a [Remote],
    index: Option<&[u8]>,
    model: &ModelId,
) -> Result<Vec<&'a Remote>, HubError> {
    let names = match index {
        None => BTreeSet::from([SINGLE.to_owned()]),
        Some(index) => shards(index).ok_or_else(|| HubError::Answer {
            place: model.to_string(),
            message: format!("{INDEX} is no index of files"),
        })?,
    };
    let by_path: BTreeMap<&str, &Remote> = files
        .iter()
        .map(|file| (file.path.as_str(), file))
        .collect();
    names
        .into_iter()
        .map(|name| match by_path.get(name.as_str()) {
            Some(file) => Ok(*file),
            None => Err(HubError::Incomplete {
                model: model.clone(),
                file: format!("{:?}, which {INDEX} names", shortened(&name)),
            }),
        })
        .collect()
}

/// The files that an index names; `None` if it is none, or names what is no file of safetensors.
pub(crate) fn shards(index: &[u8]) -> Option<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(index).ok()?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    let fine = |name: &String| is_path(name) && name.ends_with(".safetensors");
    (!names.is_empty() && names.iter().all(fine)).then_some(names)
}

/// Bytes of weights by their usual names, before an index is read.
pub(crate) fn weights_bytes(files: &[Remote]) -> u64 {
    let of = |wanted: &dyn Fn(&str) -> bool| {
        let chosen = files.iter().filter(|file| wanted(&file.path));
        chosen.fold(0, |sum: u64, file| sum.saturating_add(file.bytes))
    };
    match of(&|path| path == SINGLE) {
        0 => of(&|path| path.starts_with("model-") && path.ends_with(".safetensors")),
        bytes => bytes,
    }
}

/// A pickle among names, if it is all the weights there are.
fn pickle<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut found = None;
    for name in names {
        if name.ends_with(".safetensors") || name == INDEX {
            return None;
        }
        let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
        if found.is_none() && PICKLES.contains(&ending) {
            found = Some(name);
        }
    }
    found
}

fn no_weights(files: &[Remote], model: &ModelId) -> HubError {
    match pickle(files.iter().map(|file| file.path.as_str())) {
        Some(file) => HubError::Pickle {
            model: model.to_string(),
            file: file.to_owned(),
        },
        None => HubError::Incomplete {
            model: model.clone(),
            file: format!("{SINGLE} and no {INDEX}"),
        },
    }
}

/// What the network, its sampling and its pooling are read from.
fn is_config(path: &str) -> bool {
    match path.split_once('/') {
        None => CONFIGS.contains(&path),
        // The modules of sentence-transformers, as 1_Pooling.
        Some((folder, "config.json")) => folder
            .split_once('_')
            .is_some_and(|(number, _)| number.parse::<u8>().is_ok()),
        Some(_) => false,
    }
}

/// What texts are read and written with.
fn is_text(path: &str) -> bool {
    TEXTS.contains(&path)
        || !path.contains('/')
            && (path.starts_with("tokenizer") || path.starts_with("chat_template"))
}

const CONFIGS: &[&str] = &[
    CONFIG,
    "generation_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
];
const TEXTS: &[&str] = &[
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
];
/// Endings of files that are read by running what is in them.
const PICKLES: &[&str] = &["bin", "pt", "pth", "ckpt", "pkl", "pickle", "h5", "msgpack"];
/// Twice the longest tokenizer that is read.
const SMALL_BYTES_MAX: u64 = 512 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn files(names: &[&str]) -> Vec<Remote> {
        let remote = |name: &&str| Remote {
            path: (*name).to_owned(),
            bytes: 10,
            digest: Digest::Git("0".repeat(40)),
        };
        names.iter().map(remote).collect()
    }

    fn chosen(names: &[&str], want: Want) -> Result<Vec<String>, HubError> {
        let (files, model) = (files(names), "org/x".parse().unwrap());
        let chosen = description(&files, want, &model)?;
        Ok(chosen.iter().map(|file| file.path.clone()).collect())
    }

    const REPOSITORY: &[&str] = &[
        ".gitattributes",
        "1_Pooling/config.json",
        "README.md",
        "chat_template.jinja",
        "config.json",
        "consolidated.safetensors",
        "generation_config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "modules.json",
        "onnx/config.json",
        "onnx/model.onnx",
        "original/tokenizer.model",
        "pytorch_model.bin",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ];

    #[test]
    fn only_what_a_folder_needs_is_taken() {
        let config = [
            "1_Pooling/config.json",
            "config.json",
            "generation_config.json",
            "modules.json",
        ];
        assert_eq!(chosen(REPOSITORY, Want::Config).unwrap(), config);
        let everything = [
            "1_Pooling/config.json",
            "chat_template.jinja",
            "config.json",
            "generation_config.json",
            "model.safetensors.index.json",
            "modules.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
        ];
        assert_eq!(chosen(REPOSITORY, Want::Everything).unwrap(), everything);
        let mut description = everything.to_vec();
        description.remove(4);
        assert_eq!(chosen(REPOSITORY, Want::Description).unwrap(), description);
        // One file counts before an index, as it does when the folder is read.
        let both = ["config.json", SINGLE, INDEX];
        assert_eq!(chosen(&both, Want::Everything).unwrap(), ["config.json"]);
    }

    #[test]
    fn what_cannot_be_served_is_refused_before_it_is_downloaded() {
        let error = |names: &[&str]| chosen(names, Want::Everything).unwrap_err();
        let pickle = error(&["config.json", "pytorch_model.bin", "tokenizer.json"]);
        assert!(pickle.to_string().contains("PICKLE_REFUSED"), "{pickle}");
        assert!(pickle.to_string().contains("pytorch_model.bin"), "{pickle}");
        assert_eq!(pickle.exit_code(), 77);
        assert_eq!(error(&["config.json", "README.md"]).exit_code(), 78);
        assert_eq!(error(&["model.safetensors"]).exit_code(), 78);
        let mut huge = files(&["config.json"]);
        huge[0].bytes = SMALL_BYTES_MAX + 1;
        let error = description(&huge, Want::Config, &"x".parse().unwrap()).unwrap_err();
        assert_eq!(error.exit_code(), 65);
    }

    #[test]
    fn shards_are_those_the_index_names() {
        let files = files(REPOSITORY);
        let model = "org/x".parse().unwrap();
        let index = br#"{"metadata": {}, "weight_map": {
            "a": "model-00001-of-00002.safetensors",
            "b": "model-00002-of-00002.safetensors",
            "c": "model-00001-of-00002.safetensors"}}"#;
        let chosen = weights(&files, Some(index), &model).unwrap();
        assert_eq!(chosen.len(), 2);
        assert_eq!(weights_bytes(&files), 20);
        for (index, exit_code) in [
            (r#"{"weight_map": {"a": "none.safetensors"}}"#, 78),
            (r#"{"weight_map": {"a": "../x.safetensors"}}"#, 65),
            (r#"{"weight_map": {"a": "pytorch_model.bin"}}"#, 65),
            (r#"{"weight_map": {}}"#, 65),
            (r#"{"weight_map": {"a": 1}}"#, 65),
            ("[", 65),
        ] {
            let error = weights(&files, Some(index.as_bytes()), &model).unwrap_err();
            assert_eq!(error.exit_code(), exit_code, "{index}");
        }
    }
}

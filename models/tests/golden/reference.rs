//! The committed checkpoints and their reference results.

use std::collections::BTreeMap;
use std::path::PathBuf;

use models::files::ModelFiles;
use models::load::{Dtype, LoadFormat, LoadOptions, Threads};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use scheduler::request::Token;
use serde_json::Value;

/// The folder of one case.
pub(crate) fn folder(case: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(case)
}

/// Room for a few sequences of these tiny networks, in blocks of 16.
pub(crate) fn options(dtype: Option<Dtype>) -> LoadOptions {
    LoadOptions {
        dtype,
        format: LoadFormat::Safetensors,
        kv_cache_bytes: 4 << 20,
        block_tokens: 16,
        context_max: None,
        wanted: None,
        running_max: 16,
        step_tokens_max: 256,
        threads: Threads::new(2),
    }
}

/// One prompt of a case.
#[derive(Debug)]
pub(crate) struct Prompt {
    pub(crate) tokens: Vec<Token>,
    pub(crate) greedy: Vec<Token>,
    /// Prompt positions and their logits.
    pub(crate) logits: Vec<(usize, Vec<f32>)>,
}

/// The prompts of a decoder's case.
pub(crate) fn prompts(case: &str) -> Vec<Prompt> {
    let golden = json(case);
    let file = std::fs::read(folder(case).join("golden.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let prompts = golden["prompts"].as_array().unwrap();
    let prompt = |(index, prompt): (usize, &Value)| {
        let logits = tensors.tensor(&format!("logits.{index}")).unwrap();
        let vocab = logits.shape()[1];
        let rows: Vec<Vec<f32>> = floats(logits.data())
            .chunks(vocab)
            .map(<[f32]>::to_vec)
            .collect();
        let positions = numbers(&prompt["logits_positions"]).map(|position| position as usize);
        Prompt {
            tokens: numbers(&prompt["tokens"]).map(Token).collect(),
            greedy: numbers(&prompt["greedy"]).map(Token).collect(),
            logits: positions.zip(rows).collect(),
        }
    };
    prompts.iter().enumerate().map(prompt).collect()
}

/// One input of an encoder's case.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) tokens: Vec<Token>,
    results: BTreeMap<String, Vec<f32>>,
}

impl Input {
    /// A result of this name; the case's tensors are named `<name>.<input>`.
    pub(crate) fn result(&self, name: &str) -> &[f32] {
        self.results.get(name).unwrap()
    }
}

/// The inputs of an encoder's case.
pub(crate) fn inputs(case: &str) -> Vec<Input> {
    let golden = json(case);
    let file = std::fs::read(folder(case).join("golden.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let inputs = golden["inputs"].as_array().unwrap();
    let input = |(index, tokens): (usize, &Value)| {
        let own = |(name, view): (&str, TensorView<'_>)| {
            let name = name.strip_suffix(&format!(".{index}"))?;
            Some((name.to_owned(), floats(view.data())))
        };
        Input {
            tokens: numbers(tokens).map(Token).collect(),
            results: tensors.iter().filter_map(own).collect(),
        }
    };
    inputs.iter().enumerate().map(input).collect()
}

/// The files of a case.
pub(crate) fn files(case: &str) -> ModelFiles {
    ModelFiles::Folder(folder(case))
}

fn json(case: &str) -> Value {
    let text = std::fs::read(folder(case).join("golden.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn numbers(list: &Value) -> impl Iterator<Item = u32> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|number| number.as_u64().unwrap() as u32)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

//! What is known of a model before its weights are loaded: its facts, its task, its memory.

use models::load::{ModelInfo, Problem, Threads};

use super::cause::Cause;
use super::loader::{BLOCK_TOKENS, files, options};
use crate::config::{Asked, Files};
use crate::registry::{Facts, Meaning, Task, Vectors};

/// What a model is and what it takes, known without its weights.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub(crate) facts: Facts,
    pub(crate) task: &'static str,
    pub(crate) weights_bytes: u64,
    pub(crate) kv_bytes: u64,
    pub(crate) buffers_bytes: u64,
}

/// Reads a model's configuration.
pub(crate) fn about(source: &Files, asked: Asked) -> Result<About, Cause> {
    let options = options(asked, &Threads::new(1));
    let (info, plan) = models::load::plan(&files(source), &options)?;
    Ok(About {
        facts: facts(&info, ""),
        task: match info.task {
            models::load::Task::Generate => "generate",
            models::load::Task::Embed(_) => "embed",
            models::load::Task::Sparse => "embed sparsely",
            models::load::Task::Classify(_) => "classify",
        },
        weights_bytes: plan.weights_bytes,
        kv_bytes: plan.kv_bytes,
        buffers_bytes: plan.buffers_bytes,
    })
}

/// What the files are a model of, as far as that shows without loading it.
#[cfg(feature = "hub")]
pub(crate) fn fits(source: &Files, asked: Asked) -> Result<String, Cause> {
    let options = options(asked, &Threads::new(1));
    Ok(models::load::check(&files(source), &options)?.architecture)
}

/// What is told of it.
pub(super) fn facts(info: &ModelInfo, revision: &str) -> Facts {
    Facts {
        revision: revision.to_owned(),
        architecture: info.architecture.clone(),
        dtype: dtype_name(info.dtype).to_owned(),
        parameters: info.parameters,
        vocab_size: info.vocab,
        context_tokens_max: info.context_max,
        width: match &info.task {
            models::load::Task::Embed(embedding) => embedding.width,
            _ => info.hidden,
        },
        kv_bytes_per_token: info.kv_bytes_per_token,
        kv_block_tokens: BLOCK_TOKENS,
        ..Facts::default()
    }
}

/// The word for a type of weights.
pub(super) fn dtype_name(dtype: models::load::Dtype) -> &'static str {
    match dtype {
        models::load::Dtype::F32 => "f32",
        models::load::Dtype::F16 => "f16",
        models::load::Dtype::Bf16 => "bf16",
    }
}

/// What an encoder is for; `None` for a decoder.
pub(super) fn task(info: &ModelInfo) -> Option<Task> {
    match &info.task {
        models::load::Task::Generate => None,
        models::load::Task::Embed(embedding) => Some(Task::Embed(Vectors {
            pooling: embedding.pooling,
            normalize: embedding.normalize,
        })),
        models::load::Task::Sparse => Some(Task::Sparse),
        models::load::Task::Classify(classify) => Some(Task::Classify {
            labels: classify.labels.clone(),
            meaning: match classify.problem {
                Some(Problem::MultiLabel) => Meaning::EachAlone,
                Some(Problem::Regression) => Meaning::Quantities,
                Some(Problem::SingleLabel) | None => Meaning::OneOfAll,
            },
        }),
    }
}

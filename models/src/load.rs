//! The one door to this crate: from a model's files to something the engine can run.

use engine::executor::{Encoder, Executor, Pooling};

use crate::files::ModelFiles;

/// How to load.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The dtype to compute in; `None` takes the checkpoint's own.
    pub dtype: Option<Dtype>,
    /// Real weights, or random ones of the right shape.
    pub format: LoadFormat,
    /// Bytes for the KV cache of a decoder.
    pub kv_cache_bytes: u64,
    /// Tokens a KV block holds.
    pub block_tokens: u32,
    /// Caps the context length below the model's own.
    pub context_max: Option<u32>,
    /// Most sequences that run at once.
    pub running_max: u32,
    /// Most positions of one step.
    pub step_tokens_max: u32,
    /// Compute threads.
    pub threads: usize,
}

/// What weights and KV are stored in. Sums are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single.
    F32,
    /// IEEE half; computed as f32 on CPU.
    F16,
    /// bfloat16.
    Bf16,
}

/// Where weights come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadFormat {
    /// Safetensors files.
    Safetensors,
    /// Random weights from a fixed seed; needs `config.json` only. For benchmarks.
    Dummy,
}

/// What the server needs to know about a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// The architecture's name in `config.json`.
    pub architecture: String,
    /// The dtype computed in.
    pub dtype: Dtype,
    /// Width of the logits: token ids are below this.
    pub vocab: u32,
    /// Longest sequence, prompt and output together.
    pub context_max: u32,
    /// Width of the hidden state, and of embeddings.
    pub hidden: u32,
    /// Number of parameters.
    pub parameters: u64,
    /// KV bytes of one token; 0 for encoders.
    pub kv_bytes_per_token: u64,
    /// Tokens that end a sequence, from generation_config.json or config.json.
    pub end_tokens: Vec<u32>,
    /// The encoder's own pooling and whether it normalises; `None` for decoders.
    pub embedding: Option<EmbeddingInfo>,
}

/// What the sentence-transformers files of an encoder say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbeddingInfo {
    /// How token vectors become one.
    pub pooling: Pooling,
    /// Whether the result is scaled to length one.
    pub normalize: bool,
    /// Longest input in tokens.
    pub input_tokens_max: u32,
}

/// A loaded model.
pub enum Loaded {
    /// It continues text.
    Decoder(Box<dyn Executor>),
    /// It embeds text.
    Encoder(Box<dyn Encoder>),
}

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file is missing or unreadable.
    #[error(transparent)]
    File(#[from] crate::files::FileError),
    /// A configuration is not understood; names the file, the key and the value.
    #[error("{file}: {message}")]
    Config {
        /// Which file.
        file: String,
        /// What is wrong with it.
        message: String,
    },
    /// The architecture or one of its options is not supported; says which.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// A tensor is missing, has a wrong shape or dtype, or is left over.
    #[error("{file}: tensor {tensor}: {message}")]
    Tensor {
        /// Which file.
        file: String,
        /// Which tensor.
        tensor: String,
        /// What is wrong with it.
        message: String,
    },
    /// Not enough memory for what was asked.
    #[error("out of memory: {0}")]
    Memory(String),
}

/// Reads the configuration alone, without weights.
pub fn info(_files: &ModelFiles, _options: &LoadOptions) -> Result<ModelInfo, LoadError> {
    Err(LoadError::Unsupported("under construction".to_owned()))
}

/// Loads a model.
pub fn load(_files: &ModelFiles, _options: &LoadOptions) -> Result<(Loaded, ModelInfo), LoadError> {
    Err(LoadError::Unsupported("under construction".to_owned()))
}

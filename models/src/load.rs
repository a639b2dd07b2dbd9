//! The one door to this crate: from a model's files to something the engine can run.

use engine::executor::{Encoder, Executor, Pooling};
use kernels::attention::Look;
use kernels::kv::{KvCache, KvDtype, KvShape};
use kernels::{Compute, OutOfMemory};

use crate::config::Config;
use crate::decoder::{Decoder, Room};
use crate::encoder::{self, CpuEncoder};
use crate::executor::CpuExecutor;
use crate::files::ModelFiles;
use crate::sentence::{Modules, Sentence};
use crate::source::{Source, Store, Values};
use crate::spec::{DecoderSpec, EncoderHead, EncoderSpec, Network};
use crate::weights::Weights;
use crate::{embedder, registry, sentence, tensors};

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
    /// Caps the context length below the model's own; a cap that the KV cache cannot hold is
    /// refused. `None` takes as much of the model's own as the cache holds.
    pub context_max: Option<u32>,
    /// What an encoder is to make of a text; `None` leaves it to the model's files. Classifiers and
    /// decoders do not look at it.
    pub wanted: Option<Wanted>,
    /// Most sequences that run at once.
    pub running_max: u32,
    /// Most positions of one step.
    pub step_tokens_max: u32,
    /// Compute threads, which several models may share.
    pub threads: Threads,
}

pub use crate::memory::{MemoryPlan, plan};
pub use kernels::Threads;

/// What an encoder is to make of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// One vector, pooled in this way.
    Vector(Pooling),
    /// Weights of the vocabulary's words, which takes the head of a masked language model.
    Words,
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
    /// Longest sequence, prompt and output together; of an encoder, the longest input.
    pub context_max: u32,
    /// Width of the hidden state, and of a token's vector.
    pub hidden: u32,
    /// Number of parameters.
    pub parameters: u64,
    /// KV bytes of one token; 0 for encoders.
    pub kv_bytes_per_token: u64,
    /// Tokens that end a sequence, from generation_config.json or config.json.
    pub end_tokens: Vec<u32>,
    /// What it is for.
    pub task: Task,
}

/// What a model is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// To continue text: a decoder.
    Generate,
    /// To make vectors: an encoder that gives `Output::Pooled` and `Output::Tokens`.
    Embed(EmbeddingInfo),
    /// To weigh the words of its vocabulary: an encoder that gives `Output::Sparse` and
    /// `Output::Tokens`.
    Sparse,
    /// To score labels: an encoder that gives `Output::Scores`.
    Classify(ClassifyInfo),
}

/// What the sentence-transformers files of an encoder say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbeddingInfo {
    /// How token vectors become one.
    pub pooling: Pooling,
    /// Whether the result is scaled to length one.
    pub normalize: bool,
    /// Values of a pooled vector; a token's has as many as the hidden state.
    pub width: u32,
}

/// What the head of a classifier says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassifyInfo {
    /// The labels, in the order of their scores. A reranker has one.
    pub labels: Vec<String>,
    /// What the scores mean, where the file says so.
    pub problem: Option<Problem>,
}

/// What a classifier's scores mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Each is a quantity.
    Regression,
    /// One label holds: softmax.
    SingleLabel,
    /// Any number of labels hold: sigmoid.
    MultiLabel,
}

/// A loaded model.
#[expect(missing_debug_implementations, reason = "the traits do not ask for it")]
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
    /// Weights that can run code when they are read; names one of the files.
    #[error("PICKLE_REFUSED: {0} can run code when it is read; convert it to safetensors")]
    Pickle(String),
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

impl From<OutOfMemory> for LoadError {
    fn from(error: OutOfMemory) -> Self {
        Self::Memory(error.to_string())
    }
}

/// Reads the configuration alone, without weights.
pub fn info(files: &ModelFiles, options: &LoadOptions) -> Result<ModelInfo, LoadError> {
    describe(files, options).map(|(_, info)| info)
}

/// Reads the configuration and the headers of the weights: all that can be known of a model without
/// loading it.
pub fn check(files: &ModelFiles, options: &LoadOptions) -> Result<ModelInfo, LoadError> {
    let info = info(files, options)?;
    match options.format {
        LoadFormat::Dummy => {}
        LoadFormat::Safetensors => {
            Weights::open(files)?;
        }
    }
    Ok(info)
}

/// Loads a model. It has computed something when this returns, so that the first request finds
/// code and memory in place.
pub fn load(files: &ModelFiles, options: &LoadOptions) -> Result<(Loaded, ModelInfo), LoadError> {
    let (network, info) = describe(files, options)?;
    let loaded = match &network {
        Network::Decoder(spec) => {
            let executor = load_decoder(files, options, spec, &info)?;
            Loaded::Decoder(Box::new(executor))
        }
        Network::Encoder(spec) => {
            let encoder = load_encoder(files, options, spec, &info)?;
            Loaded::Encoder(Box::new(encoder))
        }
    };
    Ok((loaded, info))
}

fn load_decoder(
    files: &ModelFiles,
    options: &LoadOptions,
    spec: &DecoderSpec,
    info: &ModelInfo,
) -> Result<CpuExecutor, LoadError> {
    if info.context_max < spec.context_max && options.context_max.is_none() {
        tracing::warn!(
            context_max = info.context_max,
            model_context_max = spec.context_max,
            "the KV cache does not hold the model's context: capped to what it holds"
        );
    }
    // First, because it fails at once where the weights take a while.
    let shape = kv_shape(spec, options, info)?;
    let room = room(options, info);
    let cache_bytes = shape.bytes(kv_dtype(info.dtype)) as u64;
    probe(info, cache_bytes + room.bytes(spec))?;
    let values = match options.format {
        LoadFormat::Dummy => Values::Dummy,
        LoadFormat::Safetensors => {
            let weights = Weights::open(files)?;
            let ignored = match spec.head {
                crate::spec::Head::Own => tensors::decoder_ignores,
                crate::spec::Head::Tied => tensors::tied_decoder_ignores,
            };
            weights.check(&tensors::decoder(spec), ignored)?;
            Values::Weights(weights)
        }
    };
    let cache = KvCache::new(shape, kv_dtype(info.dtype))?;
    let mut source = Source::new(values, Store::from(info.dtype), options.threads.count());
    let decoder = Decoder::load(spec, &mut source, &room)?;
    // The checkpoint is unmapped before the first step.
    drop(source);
    Ok(CpuExecutor::new(
        decoder,
        cache,
        Compute::shared(&options.threads),
    ))
}

/// What the buffers of a decoder's steps must hold.
pub(crate) fn room(options: &LoadOptions, info: &ModelInfo) -> Room {
    Room {
        positions: info.context_max,
        rows: options.step_tokens_max as usize,
        samples: options.running_max as usize,
    }
}

/// Bytes of the weights as they are kept in memory.
pub(crate) fn weights_bytes(info: &ModelInfo) -> u64 {
    let bytes = Store::from(info.dtype).bytes();
    info.parameters.saturating_mul(bytes)
}

/// Whether weights and `others` could be had together, before the first is read.
fn probe(info: &ModelInfo, others: u64) -> Result<(), LoadError> {
    let weights = weights_bytes(info);
    kernels::probe(weights.saturating_add(others)).map_err(|error| {
        LoadError::Memory(format!(
            "{error}: {weights} of weights, {others} of KV cache, tables and buffers"
        ))
    })
}

fn load_encoder(
    files: &ModelFiles,
    options: &LoadOptions,
    spec: &EncoderSpec,
    info: &ModelInfo,
) -> Result<CpuEncoder, LoadError> {
    let input_tokens_max = info.context_max as usize;
    probe(info, encoder::memory_bytes(spec, input_tokens_max))?;
    let source = |values| Source::new(values, Store::from(info.dtype), options.threads.count());
    let modules = match &spec.head {
        EncoderHead::Vectors(modules) => modules.as_slice(),
        _ => &[],
    };
    let (values, prefix, modules) = match options.format {
        LoadFormat::Dummy => {
            let modules = modules.iter().map(|_| source(Values::Dummy)).collect();
            (Values::Dummy, "", modules)
        }
        LoadFormat::Safetensors => {
            let weights = Weights::open(files)?;
            let base = spec.names.base;
            let prefix = if weights.has_prefix(base) { base } else { "" };
            let ignored = |name: &str| tensors::encoder_ignores(spec.names, name);
            weights.check(&tensors::encoder(spec, prefix), ignored)?;
            let mut sources = Vec::new();
            for module in modules {
                let weights = Weights::open_module(files, &module.folder)?;
                weights.check(&tensors::dense(&module.layer), |_| false)?;
                sources.push(source(Values::Weights(weights)));
            }
            (Values::Weights(weights), prefix, sources)
        }
    };
    let mut source = source(values);
    let compute = Compute::shared(&options.threads);
    let sources = (&mut source, modules);
    let mut encoder = CpuEncoder::load(spec, input_tokens_max, sources, prefix, compute)?;
    drop(source);
    encoder.warm_up();
    Ok(encoder)
}

pub(crate) fn describe(
    files: &ModelFiles,
    options: &LoadOptions,
) -> Result<(Network, ModelInfo), LoadError> {
    let config = Config::parse(CONFIG, &files.read(CONFIG)?)?;
    let (architecture, network) = registry::network(&config)?;
    let mut network = match network {
        // A decoder's network without its head, or with the files of sentence-transformers beside it,
        // is there to make vectors.
        Network::Decoder(spec) if !architecture.ends_with(HEAD) || sentence::is_there(files)? => {
            Network::Encoder(embedder::spec(&config, &spec)?)
        }
        Network::Decoder(spec) => {
            embedder::refuse_both_sides(&config)?;
            Network::Decoder(spec)
        }
        encoder @ Network::Encoder(_) => encoder,
    };
    let dtype = match options.dtype {
        Some(dtype) => dtype,
        None => own_dtype(&config)?,
    };
    let info = match &mut network {
        Network::Decoder(spec) => ModelInfo {
            architecture,
            dtype,
            vocab: spec.vocab as u32,
            context_max: decoder_context(spec, options, dtype)?,
            hidden: spec.hidden as u32,
            parameters: tensors::parameters(&tensors::decoder(spec)),
            kv_bytes_per_token: kv_bytes_per_token(spec, dtype) as u64,
            end_tokens: end_tokens(files, &config)?,
            task: Task::Generate,
        },
        Network::Encoder(spec) => {
            let (task, input_tokens_max) = task(files, spec, options.wanted)?;
            ModelInfo {
                architecture,
                dtype,
                vocab: spec.vocab as u32,
                context_max: input_tokens_max.min(options.context_max.unwrap_or(u32::MAX)),
                hidden: spec.hidden as u32,
                parameters: encoder_parameters(spec),
                kv_bytes_per_token: 0,
                end_tokens: Vec::new(),
                task,
            }
        }
    };
    Ok((network, info))
}

/// What an encoder is for, by its architecture and the files of sentence-transformers, and its
/// longest input. A vocabulary's head that nobody asks for is taken away.
fn task(
    files: &ModelFiles,
    spec: &mut EncoderSpec,
    wanted: Option<Wanted>,
) -> Result<(Task, u32), LoadError> {
    if let EncoderHead::Classifier(classifier) = &spec.head {
        let task = Task::Classify(classifier.info.clone());
        return Ok((task, spec.context() as u32));
    }
    let Sentence {
        modules,
        input_tokens_max,
    } = sentence::read(files, spec)?;
    let embedding = |pooling, normalize, width: usize| {
        Task::Embed(EmbeddingInfo {
            pooling,
            normalize,
            width: width as u32,
        })
    };
    let words = matches!(spec.head, EncoderHead::Vocabulary(_));
    let task = match (wanted, modules) {
        (Some(Wanted::Words), _) | (None, Modules::Splade) if !words => {
            let message = "weights of words (SPLADE) of a network without the head of a masked \
                           language model";
            return Err(LoadError::Unsupported(message.to_owned()));
        }
        (Some(Wanted::Words), _) | (None, Modules::Splade) => Task::Sparse,
        (None, Modules::Absent) if words => Task::Sparse,
        (wanted, Modules::Absent | Modules::Splade) => {
            spec.head = EncoderHead::Vectors(Vec::new());
            let pooling = match wanted {
                Some(Wanted::Vector(pooling)) => pooling,
                _ => own_pooling(spec),
            };
            embedding(pooling, false, spec.hidden)
        }
        (
            wanted,
            Modules::Vectors {
                pooling,
                dense,
                normalize,
            },
        ) => {
            let pooling = match wanted {
                Some(Wanted::Vector(wanted)) => wanted,
                _ => pooling,
            };
            let width = dense.last().map_or(spec.hidden, |last| last.layer.outputs);
            spec.head = EncoderHead::Vectors(dense);
            embedding(pooling, normalize, width)
        }
    };
    Ok((task, input_tokens_max))
}

/// How vectors are made of tokens' where no file says so: by their mean, as sentence-transformers does;
/// where tokens see only those before them, by the last one.
fn own_pooling(spec: &EncoderSpec) -> Pooling {
    match spec.look {
        Look::Around => Pooling::Mean,
        Look::Back => Pooling::LastToken,
    }
}

fn encoder_parameters(spec: &EncoderSpec) -> u64 {
    let own = tensors::parameters(&tensors::encoder(spec, ""));
    let modules = match &spec.head {
        EncoderHead::Vectors(modules) => modules.as_slice(),
        _ => &[],
    };
    let modules = modules
        .iter()
        .map(|module| tensors::parameters(&tensors::dense(&module.layer)));
    own + modules.sum::<u64>()
}

/// The dtype the checkpoint says it has; transformers' default is f32.
fn own_dtype(config: &Config) -> Result<Dtype, LoadError> {
    let key = if config.value("dtype").is_some() {
        "dtype"
    } else {
        "torch_dtype"
    };
    match config.text(key)? {
        None | Some("float32") => Ok(Dtype::F32),
        Some("float16") => Ok(Dtype::F16),
        Some("bfloat16") => Ok(Dtype::Bf16),
        Some(_) => {
            let allowed = ["float32", "float16", "bfloat16"].map(serde_json::Value::from);
            Err(config.unsupported(key, &allowed))
        }
    }
}

/// The tokens that end a sequence: what generation_config.json says, else config.json.
fn end_tokens(files: &ModelFiles, config: &Config) -> Result<Vec<u32>, LoadError> {
    if let Some(bytes) = files.read_optional(GENERATION_CONFIG)? {
        let generation = Config::parse(GENERATION_CONFIG, &bytes)?;
        if let Some(tokens) = generation.tokens("eos_token_id")? {
            return Ok(tokens);
        }
    }
    Ok(config.tokens("eos_token_id")?.unwrap_or_default())
}

/// Keys and values are kept as the weights are.
pub(crate) fn kv_dtype(dtype: Dtype) -> KvDtype {
    match Store::from(dtype) {
        Store::F32 => KvDtype::F32,
        Store::Bf16 => KvDtype::Bf16,
    }
}

fn kv_bytes_per_token(spec: &DecoderSpec, dtype: Dtype) -> usize {
    Decoder::kv_shape(spec, 0, 0).bytes_per_token(kv_dtype(dtype))
}

/// The longest sequence: the cap if there is one, else what the cache holds; never more than the
/// model's own.
fn decoder_context(
    spec: &DecoderSpec,
    options: &LoadOptions,
    dtype: Dtype,
) -> Result<u32, LoadError> {
    if let Some(cap) = options.context_max {
        return Ok(cap.min(spec.context_max));
    }
    let blocks = blocks(options, kv_bytes_per_token(spec, dtype) as u64)?;
    let tokens = blocks.saturating_sub(NULL_BLOCK) * u64::from(options.block_tokens);
    // At least one token, so that a cache too small for it is refused with figures.
    Ok(tokens.clamp(1, u64::from(spec.context_max)) as u32)
}

/// How many blocks fit in `kv_cache_bytes`.
fn blocks(options: &LoadOptions, bytes_per_token: u64) -> Result<u64, LoadError> {
    let block_tokens = options.block_tokens;
    if block_tokens == 0 || !block_tokens.is_multiple_of(BLOCK_TOKENS_UNIT) {
        let message =
            format!("blocks of {block_tokens} tokens (a multiple of {BLOCK_TOKENS_UNIT})");
        return Err(LoadError::Unsupported(message));
    }
    let block_bytes = bytes_per_token * u64::from(block_tokens);
    // Slots are numbered in 32 bits.
    let blocks_max = u64::from(u32::MAX / block_tokens);
    Ok((options.kv_cache_bytes / block_bytes).min(blocks_max))
}

/// As many blocks as fit; at least what one longest sequence needs.
pub(crate) fn kv_shape(
    spec: &DecoderSpec,
    options: &LoadOptions,
    info: &ModelInfo,
) -> Result<KvShape, LoadError> {
    let block_tokens = options.block_tokens;
    let blocks = blocks(options, info.kv_bytes_per_token)?;
    let block_bytes = info.kv_bytes_per_token * u64::from(block_tokens);
    let needed = u64::from(info.context_max.div_ceil(block_tokens)) + NULL_BLOCK;
    if blocks < needed {
        return Err(LoadError::Memory(format!(
            "a KV cache of {} bytes holds {blocks} blocks of {block_bytes} bytes; one sequence of \
             {} tokens needs {needed}, {} bytes: give the cache more, or cap the context lower",
            options.kv_cache_bytes,
            info.context_max,
            needed * block_bytes,
        )));
    }
    Ok(Decoder::kv_shape(
        spec,
        blocks as usize,
        block_tokens as usize,
    ))
}

const CONFIG: &str = "config.json";
/// How the name of an architecture ends that continues text.
const HEAD: &str = "ForCausalLM";
const GENERATION_CONFIG: &str = "generation_config.json";
/// 16: what the cache's layout is built for.
const BLOCK_TOKENS_UNIT: u32 = 16;
/// Block 0, which no sequence gets.
const NULL_BLOCK: u64 = 1;

#[cfg(test)]
mod tests;

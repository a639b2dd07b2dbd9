//! The wiring: from a configuration to running engines. The only file here that names `models`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use engine::config::{EncodeConfig, EngineConfig, Identity};
use engine::encode::EncodeLimits;
use engine::executor::{Encoder, Executor, ExecutorError};
use engine::handle::{Completion, Factory};
use models::files::{FileError, ModelFiles};
use models::load::{LoadError, LoadOptions, Loaded, ModelInfo, Threads};
use serde::Deserialize;

use crate::args::model::{Dtype, LoadFormat, Pooling};
use crate::byte_tokenizer;
use crate::config::{Asked, Config, DefaultPrompt, Files, ModelSource};
use crate::exit::Exit;
use crate::registry::{self, DuplicateName, Facts, Registry, Served, Task, TextTools, Vectors};
use crate::text::chat::{ChatTemplate, TemplateError};
use crate::text::room::{TokenizerRoom, WAITING_BYTES_MAX};
use crate::text::tokenizer::{PoolLimits, TokenizerLoadError};

/// Tokens of one KV block; see `docs/adr`.
const BLOCK_TOKENS: u32 = 16;
/// How often one sequence is preempted while there is another to preempt instead.
const PREEMPTIONS_MAX: u32 = 64;
/// Inputs that wait for an encoder.
const ENCODE_WAITING_MAX: u32 = 16_384;
/// 64: a sparse vector takes at most 8 bytes a word of the vocabulary, 2 MB of 250,000 words.
const SPARSE_INPUTS_MAX: u32 = 64;

/// Why a model cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("{model}: {cause}")]
pub struct StartError {
    /// The model's name.
    pub model: String,
    /// What is wrong.
    pub cause: Cause,
}

/// What is wrong with a model.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// Its network or its weights.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A text file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerLoadError),
    /// Its chat template.
    #[error("chat template: {0}")]
    Template(#[from] TemplateError),
    /// Its sentence-transformers configuration.
    #[error("config_sentence_transformers.json: {0}")]
    Prompts(serde_json::Error),
    /// Its default prompt is none of its prompts.
    #[error("config_sentence_transformers.json: default_prompt_name {0:?} is none of its prompts")]
    DefaultPrompt(String),
    /// It has no prompt of the name that the configuration asks for.
    #[error("--default-prompt-name: the model has no prompt {name:?}; it has: {known}")]
    UnknownPrompt {
        /// The name.
        name: String,
        /// Those there are.
        known: String,
    },
    /// Its name.
    #[error(transparent)]
    Name(#[from] DuplicateName),
}

impl Cause {
    /// The exit code of a process that could not start because of this.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Load(LoadError::Tensor { .. }) | Self::Tokenizer(_) => Exit::Data,
            Self::Load(LoadError::Config { file, .. }) if is_weights(file) => Exit::Data,
            Self::Load(LoadError::Memory(_)) => Exit::System,
            Self::Load(LoadError::Pickle(_)) => Exit::Refused,
            Self::Load(LoadError::File(file)) | Self::File(file) => match file {
                FileError::Missing(_) => Exit::Config,
                FileError::Unreadable(..) => Exit::Io,
            },
            _ => Exit::Config,
        }
    }
}

fn is_weights(file: &str) -> bool {
    Path::new(file)
        .extension()
        .is_some_and(|ending| ending == "safetensors")
}

/// Engines that load their models.
#[derive(Debug)]
pub struct Started {
    /// The models, by name.
    pub registry: Registry,
    /// The end of each engine.
    pub engines: Vec<StartedEngine>,
}

/// One engine, to be waited for.
#[derive(Debug)]
pub struct StartedEngine {
    name: String,
    completion: Completion,
    failure: FirstFailure,
}

/// An engine that ended in failure.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct EngineFailure {
    /// What to tell the user.
    pub message: String,
    /// The exit code.
    pub exit: Exit,
}

impl StartedEngine {
    /// Returns when the engine has ended: after a drain, or because it failed for good.
    pub async fn wait(self) -> Result<(), EngineFailure> {
        let Err(down) = self.completion.wait().await else {
            return Ok(());
        };
        Err(match self.failure.take() {
            Some(error) => {
                let cause = Cause::Load(error);
                EngineFailure {
                    message: format!("{}: {cause}", self.name),
                    exit: cause.exit(),
                }
            }
            None => EngineFailure {
                message: down.to_string(),
                exit: Exit::Software,
            },
        })
    }
}

/// Reads every model's configuration and starts its engine, which loads the weights by itself.
pub fn start(config: &Config) -> Result<Started, StartError> {
    let room = room(config);
    let mut served = Vec::new();
    let mut engines = Vec::new();
    // One set of threads for all models: two at once do not compete for processors.
    let threads = Threads::new(config.batching.threads);
    for source in &config.models {
        let options = options(config.asked(), &threads);
        let started = start_model(config, source, options, &room);
        let (model, engine) = started.map_err(|cause| StartError {
            model: source.name.clone(),
            cause,
        })?;
        served.push(model);
        engines.push(engine);
    }
    let registry = Registry::new(served).map_err(|error| StartError {
        model: error.0.clone(),
        cause: Cause::Name(error),
    })?;
    Ok(Started { registry, engines })
}

fn room(config: &Config) -> TokenizerRoom {
    TokenizerRoom::new(PoolLimits {
        concurrent_max: config.batching.tokenization_workers,
        waiting_bytes_max: WAITING_BYTES_MAX,
        text_bytes_max: config.limits.input_bytes_max,
    })
}

fn start_model(
    config: &Config,
    source: &ModelSource,
    options: LoadOptions,
    room: &TokenizerRoom,
) -> Result<(Served, StartedEngine), Cause> {
    let files = files(&source.files);
    let info = models::load::info(&files, &options)?;
    let text = Text::read(config, &files, &info, room)?;
    let (tokens, vocab) = (text.tools.pool.tokenizer().vocab_size(), info.vocab);
    if tokens > vocab as usize {
        // Some families are published so; requests that use such a token are refused one by one.
        tracing::warn!(
            model = source.name,
            tokens,
            vocab,
            "the tokenizer knows more tokens than the model"
        );
    }
    let failure = FirstFailure::default();
    let loader = Loader {
        files: files.clone(),
        options,
        failure: failure.clone(),
    };
    let name = source.name.clone();
    let served = Named {
        name: &name,
        revision: source.revision.as_deref().unwrap_or_default(),
        info: &info,
        text,
    };
    let (model, completion) = match task(config, &info) {
        None => start_decoder(config, served, loader),
        Some(task) => start_encoder(config, served, task, loader),
    };
    Ok((
        model,
        StartedEngine {
            name,
            completion,
            failure,
        },
    ))
}

/// Whether what [`start`] reads of each model is as it should be. What only loading can tell, such as
/// the memory that is left, is not known here.
pub fn check(config: &Config) -> Result<(), StartError> {
    let room = room(config);
    let threads = Threads::new(1);
    config.models.iter().try_for_each(|source| {
        let files = files(&source.files);
        let checked = models::load::check(&files, &options(config.asked(), &threads))
            .map_err(Cause::from)
            .and_then(|info| Text::read(config, &files, &info, &room));
        checked.map(|_| ()).map_err(|cause| StartError {
            model: source.name.clone(),
            cause,
        })
    })
}

/// What is known of a model before its weights are loaded.
struct Named<'a> {
    name: &'a str,
    revision: &'a str,
    info: &'a ModelInfo,
    text: Text,
}

fn start_decoder(config: &Config, model: Named<'_>, loader: Loader) -> (Served, Completion) {
    let Named {
        name,
        revision,
        info,
        text,
    } = model;
    let limits = engine::limits::Limits {
        step_tokens_max: config.batching.step_tokens_max,
        running_max: config.batching.running_max,
        waiting_max: config.batching.waiting_max,
        sequence_tokens_max: info.context_max,
        preemptions_max: PREEMPTIONS_MAX,
        // On the CPU nothing computes beside the host: docs/adr/0009-overlap.md.
        depth_max: 1,
    };
    let mut engine = EngineConfig::new(name, limits);
    engine.identity = Identity {
        model: name.to_owned(),
        revision: revision.to_owned(),
        numerics: dtype_name(info.dtype).to_owned(),
    };
    engine.stall_timeout = config.limits.stream_stall_timeout;
    engine.timeouts = config.timeouts;
    let (handle, completion) = engine::start(loader.decoder(), engine);
    let decoder = registry::Decoder {
        name: name.to_owned(),
        facts: facts(info, revision),
        handle,
        text: text.tools,
        end_tokens: info.end_tokens.clone(),
    };
    (Served::Decoder(Arc::new(decoder)), completion)
}

fn start_encoder(
    config: &Config,
    model: Named<'_>,
    task: Task,
    loader: Loader,
) -> (Served, Completion) {
    let Named {
        name,
        revision,
        info,
        text,
    } = model;
    let inputs_max = config.batching.encode_inputs_max;
    let limits = EncodeLimits {
        // As --max-batch-tokens says.
        batch_tokens_max: config.batching.encode_tokens_max.max(info.context_max),
        batch_inputs_max: match task {
            Task::Sparse => inputs_max.min(SPARSE_INPUTS_MAX),
            _ => inputs_max,
        },
        waiting_max: ENCODE_WAITING_MAX,
        input_tokens_max: info.context_max,
    };
    let mut engine = EncodeConfig::new(name, limits);
    engine.timeouts = config.timeouts;
    let (handle, completion) = engine::start_encoder(loader.encoder(), engine);
    let encoder = registry::Encoder {
        name: name.to_owned(),
        facts: Facts {
            batch_tokens_max: limits.batch_tokens_max,
            batch_inputs_max: limits.batch_inputs_max,
            ..facts(info, revision)
        },
        handle,
        text: text.tools,
        task,
        prompts: text.prompts.prompts,
        default_prompt: text.default_prompt,
    };
    (Served::Encoder(Arc::new(encoder)), completion)
}

/// What an encoder is for; `None` for a decoder.
fn task(config: &Config, info: &ModelInfo) -> Option<Task> {
    let pooling = config.embedding.pooling.map(|pooling| match pooling {
        Pooling::Cls => engine::executor::Pooling::Cls,
        Pooling::Mean => engine::executor::Pooling::Mean,
        Pooling::LastToken => engine::executor::Pooling::LastToken,
    });
    match &info.task {
        models::load::Task::Generate => None,
        models::load::Task::Embed(embedding) => Some(Task::Embed(Vectors {
            pooling: pooling.unwrap_or(embedding.pooling),
            normalize: embedding.normalize,
        })),
        models::load::Task::Sparse => Some(Task::Sparse),
        models::load::Task::Classify(classify) => Some(Task::Classify {
            labels: classify.labels.clone(),
        }),
    }
}

/// Loads a model on its engine's thread, at the start and after every failure.
struct Loader {
    files: ModelFiles,
    options: LoadOptions,
    failure: FirstFailure,
}

/// The first failure to load, with its kind; the engine itself keeps only its text.
#[derive(Clone, Debug, Default)]
struct FirstFailure(Arc<Mutex<Option<LoadError>>>);

impl FirstFailure {
    fn set(&self, error: LoadError) {
        self.slot().get_or_insert(error);
    }

    fn take(&self) -> Option<LoadError> {
        self.slot().take()
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<LoadError>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loader {
    fn load(&self) -> Result<Loaded, ExecutorError> {
        models::load::load(&self.files, &self.options)
            .map(|(loaded, _)| loaded)
            .map_err(|error| {
                let failed = match &error {
                    LoadError::Memory(message) => ExecutorError::OutOfMemory(message.clone()),
                    other => ExecutorError::Failed(other.to_string()),
                };
                self.failure.set(error);
                failed
            })
    }

    fn decoder(self) -> Factory<dyn Executor> {
        Box::new(move || match self.load()? {
            Loaded::Decoder(executor) => Ok(executor),
            Loaded::Encoder(_) => Err(changed()),
        })
    }

    fn encoder(self) -> Factory<dyn Encoder> {
        Box::new(move || match self.load()? {
            Loaded::Encoder(encoder) => Ok(encoder),
            Loaded::Decoder(_) => Err(changed()),
        })
    }
}

fn changed() -> ExecutorError {
    ExecutorError::Failed("the model's configuration changed while the server ran".to_owned())
}

fn files(files: &Files) -> ModelFiles {
    match files {
        Files::Folder(folder) => ModelFiles::Folder(folder.clone()),
        // `hub_models` has put a folder in its place, unless nothing may be downloaded.
        #[cfg(feature = "hub")]
        Files::Hub(model, _) => ModelFiles::Folder(PathBuf::from(model.as_str())),
        #[cfg(feature = "demo")]
        Files::DemoDecoder => models::demo::decoder(),
        #[cfg(feature = "demo")]
        Files::DemoEncoder => models::demo::encoder(),
    }
}

fn options(asked: Asked, threads: &Threads) -> LoadOptions {
    LoadOptions {
        dtype: asked.dtype.map(|dtype| match dtype {
            Dtype::F32 => models::load::Dtype::F32,
            Dtype::F16 => models::load::Dtype::F16,
            Dtype::Bf16 => models::load::Dtype::Bf16,
        }),
        format: match asked.load_format {
            LoadFormat::Safetensors => models::load::LoadFormat::Safetensors,
            LoadFormat::Dummy => models::load::LoadFormat::Dummy,
        },
        kv_cache_bytes: asked.batching.kv_cache_bytes,
        block_tokens: BLOCK_TOKENS,
        context_max: asked.batching.context_max,
        running_max: asked.batching.running_max,
        step_tokens_max: asked.batching.step_tokens_max,
        threads: threads.clone(),
    }
}

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

fn facts(info: &ModelInfo, revision: &str) -> Facts {
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

fn dtype_name(dtype: models::load::Dtype) -> &'static str {
    match dtype {
        models::load::Dtype::F32 => "f32",
        models::load::Dtype::F16 => "f16",
        models::load::Dtype::Bf16 => "bf16",
    }
}

fn text_tools(
    config: &Config,
    files: &ModelFiles,
    room: &TokenizerRoom,
) -> Result<TextTools, Cause> {
    let tokenizer = match (files.read("tokenizer.json"), config.load_format) {
        (Err(FileError::Missing(_)), LoadFormat::Dummy) => byte_tokenizer::json().into(),
        (read, _) => read?,
    };
    let pool = room.pool_from_json(&tokenizer)?;
    let tokenizer_config = files.read_optional("tokenizer_config.json")?;
    let jinja = files.read_optional("chat_template.jinja")?;
    let chat = ChatTemplate::from_config(
        tokenizer_config.as_deref().unwrap_or(b"{}"),
        jinja.as_deref(),
    )?;
    let files = files.clone();
    Ok(TextTools {
        pool,
        chat,
        files: Arc::new(move |name| files.read_optional(name).ok().flatten()),
    })
}

/// The texts around a model.
struct Text {
    tools: TextTools,
    prompts: Prompts,
    default_prompt: Option<String>,
}

impl Text {
    fn read(
        config: &Config,
        files: &ModelFiles,
        info: &ModelInfo,
        room: &TokenizerRoom,
    ) -> Result<Self, Cause> {
        let tools = text_tools(config, files, room)?;
        let prompts = match info.task {
            models::load::Task::Generate => Prompts::default(),
            _ => Prompts::read(files)?,
        };
        let asked = match info.task {
            models::load::Task::Embed(_) => config.embedding.prompt.as_ref(),
            _ => None,
        };
        Ok(Self {
            tools,
            default_prompt: prompts.default_text(asked)?,
            prompts,
        })
    }
}

/// What sentence-transformers files say about texts to put before inputs.
#[derive(Debug, Default, Deserialize)]
struct Prompts {
    #[serde(default)]
    prompts: BTreeMap<String, String>,
    #[serde(default)]
    default_prompt_name: Option<String>,
}

impl Prompts {
    fn read(files: &ModelFiles) -> Result<Self, Cause> {
        match files.read_optional("config_sentence_transformers.json")? {
            Some(bytes) => Self::parse(&bytes),
            None => Ok(Self::default()),
        }
    }

    /// The text that goes before an input where a request names no prompt.
    fn default_text(&self, asked: Option<&DefaultPrompt>) -> Result<Option<String>, Cause> {
        let name = match asked {
            Some(DefaultPrompt::Text(text)) => return Ok(Some(text.clone())),
            Some(DefaultPrompt::Named(name)) => Some(name),
            None => self.default_prompt_name.as_ref(),
        };
        let Some(name) = name else { return Ok(None) };
        let text = self.prompts.get(name).cloned();
        text.map(Some).ok_or_else(|| {
            let known: Vec<&str> = self.prompts.keys().map(String::as_str).collect();
            Cause::UnknownPrompt {
                name: name.clone(),
                known: known.join(", "),
            }
        })
    }

    fn parse(json: &[u8]) -> Result<Self, Cause> {
        let prompts: Self = serde_json::from_slice(json).map_err(Cause::Prompts)?;
        match &prompts.default_prompt_name {
            Some(name) if !prompts.prompts.contains_key(name) => {
                Err(Cause::DefaultPrompt(name.clone()))
            }
            _ => Ok(prompts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_what_kind_of_thing_is_wrong() {
        let config = |file: &str| {
            let (file, message) = (file.to_owned(), "wrong".to_owned());
            Cause::Load(LoadError::Config { file, message })
                .exit()
                .code()
        };
        assert_eq!(config("config.json"), 78);
        assert_eq!(config("model-00001-of-00002.safetensors"), 65);
        let tensor = LoadError::Tensor {
            file: "model.safetensors".to_owned(),
            tensor: "a".to_owned(),
            message: "wrong".to_owned(),
        };
        assert_eq!(Cause::Load(tensor).exit().code(), 65);
        assert_eq!(
            Cause::Load(LoadError::Memory("little".to_owned()))
                .exit()
                .code(),
            71
        );
        assert_eq!(
            Cause::File(FileError::Missing("tokenizer.json".to_owned()))
                .exit()
                .code(),
            78
        );
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        assert_eq!(
            Cause::File(FileError::Unreadable("x".to_owned(), denied))
                .exit()
                .code(),
            74
        );
    }

    #[test]
    fn a_default_prompt_is_one_of_the_prompts() {
        let parse = |json: &str| Prompts::parse(json.as_bytes());
        let known = r#"{"prompts": {"query": "q: "}, "default_prompt_name": "query"}"#;
        let prompts = parse(known).unwrap();
        let text = |asked| prompts.default_text(asked);
        let own = text(None).unwrap();
        assert_eq!(own.as_deref(), Some("q: "));
        let asked = DefaultPrompt::Text("other: ".to_owned());
        let given = text(Some(&asked)).unwrap();
        assert_eq!(given.as_deref(), Some("other: "));
        let error = text(Some(&DefaultPrompt::Named("passage".to_owned()))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--default-prompt-name: the model has no prompt \"passage\"; it has: query"
        );
        assert!(parse(r#"{"prompts": {}, "default_prompt_name": null}"#).is_ok());
        let error = parse(r#"{"prompts": {}, "default_prompt_name": "query"}"#).unwrap_err();
        assert!(matches!(&error, Cause::DefaultPrompt(name) if name == "query"));
        assert_eq!(error.exit().code(), 78);
    }

    #[test]
    fn the_first_failure_is_the_one_that_counts() {
        let failure = FirstFailure::default();
        failure.set(LoadError::Memory("first".to_owned()));
        failure.set(LoadError::Unsupported("second".to_owned()));
        assert!(matches!(failure.take(), Some(LoadError::Memory(_))));
    }
}

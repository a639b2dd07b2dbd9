//! The wiring: from a configuration to running engines. Only this folder names `models`.

mod about;
mod cause;
mod loader;
mod text;

use std::sync::Arc;

use engine::config::{EncodeConfig, EngineConfig, Identity};
use engine::encode::EncodeLimits;
use engine::handle::Completion;
use models::load::{LoadOptions, ModelInfo, Threads};

use crate::config::{Config, ModelSource};
use crate::exit::Exit;
use crate::registry::{self, Facts, Registry, Served, Task};
use crate::text::room::{TokenizerRoom, WAITING_BYTES_MAX};
use crate::text::tokenizer::PoolLimits;
use about::{dtype_name, facts, task};
use loader::{FirstFailure, Loader, files, options};
use text::Text;

#[cfg(feature = "hub")]
pub(crate) use about::fits;
pub(crate) use about::{About, about};
pub use cause::{Cause, StartError};

/// How often one sequence is preempted while there is another to preempt instead.
const PREEMPTIONS_MAX: u32 = 64;
/// Inputs that wait for an encoder.
const ENCODE_WAITING_MAX: u32 = 16_384;
/// 64: a sparse vector takes at most 8 bytes a word of the vocabulary, 2 MB of 250,000 words.
const SPARSE_INPUTS_MAX: u32 = 64;

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
    let (model, completion) = match task(&info) {
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
        prompts: text.prompts,
        default_prompt: text.default_prompt,
    };
    (Served::Encoder(Arc::new(encoder)), completion)
}

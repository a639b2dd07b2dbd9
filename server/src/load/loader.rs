//! What makes a model's executors: its files, how they are to be loaded, and the first failure.

#[cfg(feature = "hub")]
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::executor::{Encoder, Executor, ExecutorError};
use engine::handle::Factory;
use models::files::ModelFiles;
use models::load::{LoadError, LoadOptions, Loaded, Threads, Wanted};

use crate::args::model::{Dtype, LoadFormat, Pooling};
use crate::config::{Asked, Files};
use crate::failpoints;

/// Tokens of one KV block; see `docs/adr`.
pub(super) const BLOCK_TOKENS: u32 = 16;

/// Loads a model on its engine's thread, at the start and after every failure.
pub(super) struct Loader {
    pub(super) files: ModelFiles,
    pub(super) options: LoadOptions,
    pub(super) failure: FirstFailure,
}

/// The first failure to load, with its kind; the engine itself keeps only its text.
#[derive(Clone, Debug, Default)]
pub(super) struct FirstFailure(Arc<Mutex<Option<LoadError>>>);

impl FirstFailure {
    fn set(&self, error: LoadError) {
        self.slot().get_or_insert(error);
    }

    pub(super) fn take(&self) -> Option<LoadError> {
        self.slot().take()
    }

    fn slot(&self) -> MutexGuard<'_, Option<LoadError>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loader {
    fn load(&self) -> Result<Loaded, ExecutorError> {
        failpoints::load()?;
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

    pub(super) fn decoder(self) -> Factory<dyn Executor> {
        Box::new(move || match self.load()? {
            Loaded::Decoder(executor) => Ok(failpoints::executor(executor)),
            Loaded::Encoder(_) => Err(changed()),
        })
    }

    pub(super) fn encoder(self) -> Factory<dyn Encoder> {
        Box::new(move || match self.load()? {
            Loaded::Encoder(encoder) => Ok(failpoints::encoder(encoder)),
            Loaded::Decoder(_) => Err(changed()),
        })
    }
}

fn changed() -> ExecutorError {
    ExecutorError::Failed("the model's configuration changed while the server ran".to_owned())
}

/// Where a model lies.
pub(super) fn files(files: &Files) -> ModelFiles {
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

/// How it is to be loaded.
pub(super) fn options(asked: Asked, threads: &Threads) -> LoadOptions {
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
        wanted: asked.pooling.map(|pooling| match pooling {
            Pooling::Cls => Wanted::Vector(engine::executor::Pooling::Cls),
            Pooling::Mean => Wanted::Vector(engine::executor::Pooling::Mean),
            Pooling::LastToken => Wanted::Vector(engine::executor::Pooling::LastToken),
            Pooling::Splade => Wanted::Words,
        }),
        running_max: asked.batching.running_max,
        step_tokens_max: asked.batching.step_tokens_max,
        threads: threads.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_the_one_that_counts() {
        let failure = FirstFailure::default();
        failure.set(LoadError::Memory("first".to_owned()));
        failure.set(LoadError::Unsupported("second".to_owned()));
        assert!(matches!(failure.take(), Some(LoadError::Memory(_))));
    }
}

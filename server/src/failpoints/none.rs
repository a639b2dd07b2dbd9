//! Nothing fails on command.

use engine::executor::{Encoder, Executor, ExecutorError};

/// That what the environment asks for can be done.
#[expect(clippy::unnecessary_wraps, reason = "the other build may fail")]
pub(crate) fn check() -> Result<(), String> {
    Ok(())
}

/// Before a model is loaded.
#[expect(clippy::unnecessary_wraps, reason = "the other build may fail")]
pub(crate) fn load() -> Result<(), ExecutorError> {
    Ok(())
}

/// A decoder.
pub(crate) fn executor(executor: Box<dyn Executor>) -> Box<dyn Executor> {
    executor
}

/// An encoder.
pub(crate) fn encoder(encoder: Box<dyn Encoder>) -> Box<dyn Encoder> {
    encoder
}

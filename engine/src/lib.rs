//! The loop that runs plans: one plain OS thread per model, which never awaits and never waits
//! for a client. The only crate that reads a clock. It knows no tensor and no wire.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod clock;
pub mod config;
pub mod executor;
#[cfg(feature = "fake")]
pub mod fake;
pub mod handle;
pub mod hash;
pub mod kv_log;
pub mod metrics;
pub mod sampling;

mod beat;
mod decoder;
mod flights;
mod frame;
mod inbox;
mod ledger;
mod mailbox;
mod record;
mod run;
mod run_encoder;

use std::sync::Arc;

use config::{EncodeConfig, EngineConfig};
use decoder::Decoder;
use executor::{Encoder, Executor};
use handle::{Completion, EncodeHandle, Factory, Handle};
use run_encoder::EncodeEngine;

// The vocabulary of the boundary, so that `server` needs no arrow to `scheduler`.
pub use scheduler::{encode, limits, plan, policy, request};

/// Starts a decoder's engine: a thread on which `factory` makes the executor, and which then runs
/// its steps. Install the metrics recorder before; its handles are made here.
///
/// Returns at once, with health `Starting`; `Serving` follows when the executor is made.
pub fn start(factory: Factory<dyn Executor>, config: EngineConfig) -> (Handle, Completion) {
    let decoder = Arc::new(Decoder::new(factory, config));
    let completion = frame::start(&decoder);
    (Handle::new(decoder), completion)
}

/// Starts an encoder's engine, in the same frame as [`start`].
pub fn start_encoder(
    factory: Factory<dyn Encoder>,
    config: EncodeConfig,
) -> (EncodeHandle, Completion) {
    let engine = Arc::new(EncodeEngine::new(factory, config));
    let completion = frame::start(&engine);
    (EncodeHandle::new(engine), completion)
}

//! The loop that runs plans: one plain OS thread per model, which never awaits and never waits
//! for a client. The only crate that reads a clock. It knows no tensor and no wire.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod clock;
pub mod config;
pub mod executor;
pub mod handle;
pub mod sampling;

use config::{EncodeConfig, EngineConfig};
use executor::{Encoder, Executor};
use handle::{Completion, EncodeHandle, Factory, Handle};

// The vocabulary of the boundary, so that `server` needs no arrow to `scheduler`.
pub use scheduler::{encode, limits, plan, request};

/// Starts a decoder's engine: a thread on which `factory` makes the executor, and which then runs
/// its steps. Install the metrics recorder before; its handles are made here.
///
/// Returns at once, with health `Starting`; `Serving` follows when the executor is made.
pub fn start(factory: Factory<dyn Executor>, config: EngineConfig) -> (Handle, Completion) {
    let _ = (factory, config);
    (Handle {}, Completion {})
}

/// Starts an encoder's engine, in the same frame as [`start`].
pub fn start_encoder(
    factory: Factory<dyn Encoder>,
    config: EncodeConfig,
) -> (EncodeHandle, Completion) {
    let _ = (factory, config);
    (EncodeHandle {}, Completion {})
}

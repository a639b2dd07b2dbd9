//! The loop that runs plans: one plain OS thread per model, which never awaits and never waits
//! for a client. The only crate that reads a clock. It knows no tensor and no wire.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod executor;
pub mod sampling;
pub mod handle;

// The vocabulary of the boundary, so that `server` needs no arrow to `scheduler`.
pub use scheduler::{limits, plan, request};

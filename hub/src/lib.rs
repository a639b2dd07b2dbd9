//! Models from the Hugging Face hub: found, downloaded, verified and kept in the shared cache.
//!
//! The only crate that knows the hub. It gives out folders; what is in them is for others to read.
//! What it guarantees:
//!
//! - every file of a model is of one commit, resolved once;
//! - a file that has its name was received whole, and its hash is the one the hub named;
//! - the token goes to the hub's own address and nowhere else, and is never printed;
//! - the cache is laid out as Python's `huggingface_hub` lays it out, under the same locks.
//!
//! It blocks: callers give it a thread. It reads no clock but through [`clock::Clock`].

mod answer;
mod api;
mod cache;
pub mod clock;
mod digest;
pub mod display;
pub mod error;
mod fetch;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod http;
pub mod id;
pub mod observe;
mod retry;
mod select;
pub mod settings;
mod transfer;
pub mod verify;

pub use error::HubError;
pub use fetch::{Hub, Origin, Snapshot, Want};
pub use id::{Commit, ModelId, Revision};
pub use settings::Settings;

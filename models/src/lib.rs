//! Networks, weights and sampling. Turns a plan into tensors and tokens; never touches the
//! network, and knows neither wire nor text.
//!
//! [`load::load`] is the one door: a folder goes in, something the engine can run comes out. Inside,
//! a family turns `config.json` into a spec, and one decoder and one encoder are driven by it.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

#[cfg(feature = "demo")]
pub mod demo;
pub mod files;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod load;

mod candidates;
mod config;
mod decoder;
mod embedder;
mod encoder;
mod executor;
mod families;
mod head;
mod memory;
mod norm;
mod random;
mod registry;
mod sampler;
mod sentence;
mod source;
mod spec;
mod tensors;
mod weights;

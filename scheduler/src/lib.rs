//! Pure continuous batching over a paged KV cache.
//!
//! This crate is the only one that decides. It has no dependency, reads no clock, draws no random
//! number, does no I/O and never waits: time, outcomes and the hash function are arguments. A
//! [`plan::Plan`] is data; what happens to it is the executor's business.
//!
//! One primitive, no phases: for each sequence, compute *these positions*. A decode step is a
//! slice of length one.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod blocks;
pub mod encode;
pub mod hash;
mod kv;
pub mod limits;
pub mod plan;
mod prefix;
mod queue;
pub mod request;
pub mod scheduler;
mod sequence;

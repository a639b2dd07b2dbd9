//! Pure continuous batching over a paged KV cache.
//!
//! This crate is the only one that decides. It has no dependency, reads no clock, draws no random
//! number, does no I/O and never waits: time, outcomes and the hash function are arguments. A
//! [`plan::Plan`] is data; what happens to it is the executor's business.
//!
//! One primitive, no phases: for each sequence, compute *these positions*. A decode step is a
//! slice of length one.
//!
//! What always holds:
//! - A step computes at most `step_tokens_max` positions, and no more sequences run than there
//!   are slots. Every queue has a bound.
//! - A block is written by one sequence, which alone names it, and shared only when it is full
//!   and computed. It is given to somebody else only after every step that names it was applied.
//! - After admission nothing fails: each request gets exactly one [`plan::Event::Finished`].
//! - The text of a request does not depend on what runs beside it.
//! - If a request waits or runs and no step is in flight, the next plan is not empty.
//! - The same calls give the same answers.
//!
//! A count that does not agree is a panic, in release too: to mix two users' KV is worse than to
//! restart. To read on: [`scheduler`] is the policy, [`plan`] and [`request`] are its language.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod blocks;
pub mod cache;
pub mod cost;
pub mod encode;
mod forecast;
pub mod hash;
mod kv;
pub mod limits;
mod pace;
pub mod plan;
pub mod policy;
mod prefix;
mod queue;
pub mod request;
pub mod scheduler;
mod sequence;

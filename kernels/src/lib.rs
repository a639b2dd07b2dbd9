//! CPU operations of the networks behind shape-checked safe functions.
//!
//! Every op takes the [`Compute`] it runs on first, then plain row-major `f32` slices or views of
//! rows ([`Rows`]); shapes are checked by assertions, because a wrong shape is a programmer's error.
//!
//! Guarantee: the bits of an output row depend only on that row's own inputs and on the
//! [`Level`] of the machine, never on how many rows a call has, where the row stands, how the
//! work was split over threads or how a prompt was cut into chunks.
//!
//! The only crate with `unsafe`, each block with its reason.
#![deny(missing_docs)]
#![expect(
    clippy::inline_always,
    reason = "a kernel gets the instruction set of its entry function only where it is inlined"
)]

pub mod activation;
mod attend;
pub mod attention;
mod buffer;
mod call;
pub mod compute;
pub mod embedding;
mod gemm;
pub mod kv;
pub mod linear;
pub mod mapped;
mod multiply;
pub mod norm;
mod pages;
mod pool;
pub mod rope;
pub mod sample;
mod shared;
mod simd;
mod source;
mod threads;
pub mod view;

pub use buffer::{OutOfMemory, probe};
pub use compute::{Compute, Level};
pub use threads::Threads;
pub use view::{Rows, RowsMut};

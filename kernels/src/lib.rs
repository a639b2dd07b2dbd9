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

pub mod activation;
pub mod attention;
pub mod compute;
pub mod embedding;
pub mod kv;
pub mod linear;
pub mod mapped;
pub mod norm;
pub mod rope;
pub mod sample;
pub mod view;

pub use compute::{Compute, Level};
pub use view::{Rows, RowsMut};

//! Tiny networks against what Hugging Face transformers computed with the same weights.
//!
//! Everything goes through the one door: a folder is loaded, plans go in, rows come out. Asking
//! for as many log probabilities as there are words gives a whole row of logits, up to a constant.
#![expect(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and prints how near it was"
)]

mod decoders;
mod drive;
mod encoders;
mod reference;
mod scheduled;

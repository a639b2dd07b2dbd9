//! CPU operations of the networks behind shape-checked safe functions.
//!
//! The only crate with `unsafe`, each block with its reason.
#![deny(missing_docs)]

//! The gRPC and HTTP edge: the only crate that knows the wire, text, configuration and the network.
//!
//! A request's way: [`listener`](serve::serve) takes the connection, `edge` admits the call and
//! watches it to its end, `grpc/<method>` checks and tokenizes it and submits it to its model's
//! engine, `grpc/generation` turns the engine's progress into messages. Nothing here waits for a
//! device, and the engine never waits for anything here.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod app;
pub mod args;
mod arriving;
pub mod byte_tokenizer;
mod call;
mod clock;
pub mod commands;
pub mod config;
mod edge;
pub mod exit;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod grpc;
pub mod health;
mod journal;
pub mod lifecycle;
pub mod limits;
mod listener;
pub mod load;
pub mod logs;
mod method;
pub mod metrics;
#[cfg(feature = "otlp")]
pub mod otlp;
mod pages;
pub mod probe;
pub mod registry;
pub mod serve;
pub mod status;
mod sweeper;
mod tei;
pub mod text;
pub mod trace;

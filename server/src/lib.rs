//! The gRPC and HTTP edge: the only crate that knows the wire, text, configuration and the network.
//!
//! A request's way: `transport` takes the connection, `edge` admits the call and
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
pub mod clock;
pub mod commands;
pub mod config;
pub mod dialects;
mod edge;
pub mod exit;
mod failpoints;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod grpc;
pub mod health;
#[cfg(feature = "hub")]
mod hub_models;
mod journal;
pub mod lifecycle;
pub mod limits;
pub mod load;
pub mod logs;
pub mod manager;
mod method;
pub mod metrics;
#[cfg(feature = "otlp")]
pub mod otlp;
mod page_body;
mod pages;
pub mod probe;
pub mod registry;
pub mod security;
mod series;
pub mod serve;
pub mod status;
mod sweeper;
mod tei;
pub mod text;
mod throttle;
pub mod trace;
pub mod transport;

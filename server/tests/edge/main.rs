//! The edge over a real socket: server, engines and schedulers as shipped, devices faked.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod ahead;
mod bench;
mod cache;
mod checks;
mod configuration;
mod connections;
mod embed;
#[cfg(feature = "failpoints")]
mod failpoints;
mod faults;
mod generate;
mod hostile;
mod http;
mod journal;
mod keys;
mod lifecycle;
mod lines;
mod manager;
mod quotas;
mod rank;
mod raw;
mod secrets;
mod series;
mod services;
mod tei;
mod tei_bounds;
mod tls;
#[cfg(feature = "otlp")]
mod traces;
mod unread;
mod validation;
mod world;

//! The edge over a real socket: server, engines and schedulers as shipped, devices faked.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod embed;
mod generate;
mod http;
mod lifecycle;
mod services;
mod validation;
mod world;

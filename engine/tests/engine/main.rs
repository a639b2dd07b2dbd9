//! The engine against a fake device: what callers see, whatever goes wrong below.
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod bench;
mod cache;
mod encode;
mod ends;
mod lives;
mod metrics;
mod overlap;
mod restarts;
mod streams;

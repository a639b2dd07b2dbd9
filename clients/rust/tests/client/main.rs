//! The client against servers that fail on purpose.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod cut;
mod flaky;
mod retry;

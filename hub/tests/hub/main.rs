//! The hub crate against a server that has the hub's routes, its redirects and its bad days.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cache;
mod download;
mod faults;
mod hostile;
mod processes;
mod secrets;
mod server;
mod shown;
mod tls;

//! The gRPC and HTTP edge: the only crate that knows the wire, text, configuration and the network.

pub mod text;

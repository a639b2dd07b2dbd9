//! The public contract: generated messages, clients and servers.

/// The descriptors of all packages, comments included; for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/contract.binpb"));

/// `paternoster.v1`, the native API.
pub mod v1 {
    tonic::include_proto!("paternoster.v1");
}

/// The gRPC interface of Text Embeddings Inference.
pub mod tei {
    /// `tei.v1`.
    pub mod v1 {
        tonic::include_proto!("tei.v1");
    }
}

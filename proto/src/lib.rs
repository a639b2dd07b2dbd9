//! The public contract: generated messages, clients and servers.

/// `paternoster.v1`, the native API.
pub mod v1 {
    tonic::include_proto!("paternoster.v1");

    /// The descriptors of this package, comments included; for reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/paternoster.v1.binpb"));
}

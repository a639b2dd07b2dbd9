//! Compiles the protobufs with `protox`, so that nobody needs `protoc`.

use std::path::PathBuf;

use prost::Message as _;

const FILES: &[&str] = &[
    "paternoster/v1/inference.proto",
    "paternoster/v1/control.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=paternoster");
    // Comments stay in the set: reflection then answers `grpcurl describe` with the documentation.
    let files = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("paternoster.v1.binpb"), files.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}

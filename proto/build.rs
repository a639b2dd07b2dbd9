//! Compiles the protobufs with `protox`, so that nobody needs `protoc`.

use std::path::PathBuf;

use prost::Message as _;

const FILES: &[&str] = &[
    "paternoster/v1/inference.proto",
    "paternoster/v1/control.proto",
    "tei/v1/tei.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for folder in ["paternoster", "tei"] {
        println!("cargo::rerun-if-changed={folder}");
    }
    // Comments stay in the set: reflection then answers `grpcurl describe` with the documentation.
    let files = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("contract.binpb"), files.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}

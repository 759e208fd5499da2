//! Compiles the .proto files; protox parses them, so no protoc is needed.

use std::{error::Error, fs, path::PathBuf};

const FILES: [&str; 5] = [
    "hoistway/common/v1/common.proto",
    "hoistway/tools/v1/tools.proto",
    "hoistway/builds/v1/builds.proto",
    "hoistway/agents/v1/agents.proto",
    "hoistway/egress/v1/egress.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let set = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&set))?;
    tonic_prost_build::configure().compile_fds(set)?;
    Ok(())
}

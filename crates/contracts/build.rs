//! Generates code from the .proto files. The compiler is a crate, so `protoc` is not needed.

use std::{env, error::Error, fs, path::Path};

use prost::Message;

/// The folder of the .proto files, and their paths in it.
const ROOT: &str = "proto";
const FILES: [&str; 1] = ["hedgerow/inventory/v1/inventory.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    let descriptors = protox::compile(FILES, [ROOT])?;
    // For reflection.
    fs::write(Path::new(&env::var("OUT_DIR")?).join("descriptors.bin"), descriptors.encode_to_vec())?;
    // The chassis has its own transport.
    tonic_prost_build::configure().build_transport(false).compile_fds(descriptors)?;
    Ok(())
}

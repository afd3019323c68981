//! Embeds the files that describe the services of this workspace.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

fn main() {
    // Read at run time: a build folder that several clones share may have this program from another one.
    println!("cargo:rerun-if-env-changed=CARGO_MANIFEST_DIR");
    let own = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let services = Path::new(&own).join("../../services");
    let entries = fs::read_dir(&services).into_iter().flatten().flatten();
    let mut files: Vec<_> =
        entries.map(|entry| entry.path().join("microservice.yaml")).filter(|file| file.is_file()).collect();
    files.sort();
    let mut code = "const EMBEDDED: &[(&str, &str)] = &[\n".to_owned();
    // Watching the whole folder would rebuild this crate after each change to a service's code.
    for file in files {
        println!("cargo:rerun-if-changed={}", file.display());
        let name = file.strip_prefix(&services).unwrap_or(&file).display();
        let _ = writeln!(code, "    (\"services/{name}\", include_str!(\"{}\")),", file.display());
    }
    code += "];\n";
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&out).join("manifests.rs"), code).expect("OUT_DIR is writable");
}

//! Cargo sees a new migration only if it is told where they are.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations/users");
}

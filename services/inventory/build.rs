//! Rebuilds the crate when a migration is added: `sqlx::migrate!` embeds them, but Cargo does not know.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations/inventory");
}

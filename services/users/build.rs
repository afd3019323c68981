//! Rebuilds the crate when a migration is added: `sqlx::migrate!` embeds them, but Cargo does not know. And for
//! `migrations/queries.sh`, which collects the data of `sqlx::query!` in another folder each time.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations/users");
    println!("cargo:rerun-if-env-changed=SQLX_OFFLINE_DIR");
}

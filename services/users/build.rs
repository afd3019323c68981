//! Makes Cargo rebuild the service after a new migration, and when `make queries` collects its queries.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations/users");
    println!("cargo:rerun-if-env-changed=SQLX_OFFLINE_DIR");
}

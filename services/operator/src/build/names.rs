//! What things are called.

use kube::ResourceExt;

use api::{Database, Microservice};

/// The service's pods' container.
pub const CONTAINER: &str = "main";

/// The Secret that opens the service's database.
#[must_use]
pub fn credentials(object: &Microservice) -> String {
    format!("{}-database", object.name_any())
}

/// The database on its server, and its role.
#[must_use]
pub fn database(object: &Microservice, spec: &Database) -> String {
    spec.name.clone().unwrap_or_else(|| object.name_any())
}

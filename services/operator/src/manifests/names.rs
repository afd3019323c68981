//! Names that several manifests and the controller share.

use kube::ResourceExt;

use api::{Database, Microservice};

/// The name of the only container of a pod.
pub const CONTAINER: &str = "main";

/// How the names of the Secrets with database credentials end.
pub const CREDENTIALS_SUFFIX: &str = "-database";

/// The name of the Secret with the URL of the service's database.
#[must_use]
pub fn database_secret(object: &Microservice) -> String {
    format!("{}{CREDENTIALS_SUFFIX}", object.name_any())
}

/// The name of the database and of its role.
#[must_use]
pub fn database(object: &Microservice, spec: &Database) -> String {
    spec.name.clone().unwrap_or_else(|| object.name_any())
}

/// The name of an object's headless Service.
pub(super) fn headless(object: &str) -> String {
    format!("{object}-headless")
}

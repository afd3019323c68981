//! Names that several manifests and the controller share.

use kube::ResourceExt;

use api::{Database, Microservice};

/// The name of the only container of a pod.
pub const CONTAINER: &str = "main";

/// How the names of the Secrets with database credentials end.
pub const CREDENTIALS_SUFFIX: &str = "-database";

/// The name of the `ConfigMap` with the issuers that services trust. Services have the path of its files.
pub const TRUST: &str = "hedgerow-trust";
/// The file with the list of issuers, in the format of `AUTH_ISSUERS`.
pub const ISSUERS_FILE: &str = "issuers.json";
/// The file with the keys of the cluster, by which it signs the tokens of service accounts.
pub const KEYS_FILE: &str = "jwks.json";

/// The name of the Secret with the key that seals the keys of the issuer in its database.
pub const KEK_SECRET: &str = "hedgerow-issuer";
/// The file with that key.
pub const KEK_FILE: &str = "kek";

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

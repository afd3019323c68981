//! The variables of the contract that a service keeps with whatever runs it, and the user's own.

use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, SecretKeySelector};

use super::names;
use api::Microservice;

/// How long a service goes on serving after SIGTERM, while the cluster takes notice.
const DRAIN_DELAY: &str = "5s";
/// How long requests in flight may take after that.
const SHUTDOWN_TIMEOUT: &str = "25s";

/// For the pods that serve.
pub(super) fn service(object: &Microservice) -> Vec<EnvVar> {
    let spec = &object.spec;
    let address = |name, port: u16| value(name, format!("0.0.0.0:{port}"));
    let pool_size = |size: i32| value("DATABASE_POOL_SIZE", size.to_string());
    let contract = [
        Some(address("HTTP_ADDR", spec.ports.http)),
        spec.ports.grpc.map(|port| address("GRPC_ADDR", port)),
        Some(address("ADMIN_ADDR", spec.ports.admin)),
        database_url(object),
        spec.database.as_ref().map(|database| pool_size(database.pool_size)),
        Some(value("DRAIN_DELAY", DRAIN_DELAY.to_owned())),
        Some(value("SHUTDOWN_TIMEOUT", SHUTDOWN_TIMEOUT.to_owned())),
    ];
    with_the_users(contract.into_iter().flatten(), object)
}

/// For the pods that migrate: nothing that a migration does not need, for each change of it is a migration more.
pub(super) fn migration(object: &Microservice) -> Vec<EnvVar> {
    with_the_users(database_url(object), object)
}

/// The user's come last, so that they may refer to the others, and win over those of the same name.
fn with_the_users(contract: impl IntoIterator<Item = EnvVar>, object: &Microservice) -> Vec<EnvVar> {
    let users = &object.spec.env;
    let contract = contract.into_iter().filter(|ours| users.iter().all(|theirs| theirs.name != ours.name));
    contract.chain(users.iter().cloned()).collect()
}

fn database_url(object: &Microservice) -> Option<EnvVar> {
    object.spec.database.as_ref()?;
    let url = SecretKeySelector { name: names::credentials(object), key: "url".to_owned(), optional: None };
    let source = EnvVarSource { secret_key_ref: Some(url), ..EnvVarSource::default() };
    Some(EnvVar { name: "DATABASE_URL".to_owned(), value: None, value_from: Some(source) })
}

fn value(name: &str, value: String) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value), value_from: None }
}

//! The environment variables of the service contract, and those of the user.

use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, SecretKeySelector};
use runtime::process::{DEFAULT_DRAIN_DELAY, DEFAULT_SHUTDOWN_TIMEOUT};

use super::{authentication, inputs::RenderInputs, names};
use api::{DEFAULT_GRPC_PORT, Microservice, grpc_url_variable};

/// The environment of the pods that serve.
pub(super) fn service(object: &Microservice, inputs: &RenderInputs) -> Vec<EnvVar> {
    let spec = &object.spec;
    let address = |name, port: u16| value(name, format!("0.0.0.0:{port}"));
    let pool_size = |size: i32| value("DATABASE_POOL_SIZE", size.to_string());
    let contract = [
        Some(address("HTTP_ADDR", spec.ports.http)),
        spec.ports.grpc.map(|port| address("GRPC_ADDR", port)),
        Some(address("ADMIN_ADDR", spec.ports.admin)),
        database_url(object),
        spec.database.as_ref().map(|database| pool_size(database.pool_size)),
        Some(value("DRAIN_DELAY", DEFAULT_DRAIN_DELAY.to_owned())),
        Some(value("SHUTDOWN_TIMEOUT", DEFAULT_SHUTDOWN_TIMEOUT.to_owned())),
    ];
    let callees = spec.calls.iter().map(|callee| callee_url(callee, inputs));
    let authentication = authentication::environment(object, inputs);
    with_users_own(contract.into_iter().flatten().chain(callees).chain(authentication), object)
}

/// The environment of the pods that migrate: only what a migration needs, because every change starts a new migration.
pub(super) fn migration(object: &Microservice) -> Vec<EnvVar> {
    with_users_own(database_url(object), object)
}

/// Appends the user's variables, which may refer to those before them and override those of the same name.
fn with_users_own(contract: impl IntoIterator<Item = EnvVar>, object: &Microservice) -> Vec<EnvVar> {
    let users = &object.spec.env;
    let contract = contract.into_iter().filter(|ours| users.iter().all(|theirs| theirs.name != ours.name));
    contract.chain(users.iter().cloned()).collect()
}

/// The headless Service resolves to the pods themselves, over which a gRPC client balances its requests.
fn callee_url(callee: &str, inputs: &RenderInputs) -> EnvVar {
    let port = inputs.callee_ports.get(callee).copied().unwrap_or(DEFAULT_GRPC_PORT);
    value(&grpc_url_variable(callee), format!("http://{}:{port}", names::headless(callee)))
}

fn database_url(object: &Microservice) -> Option<EnvVar> {
    object.spec.database.as_ref()?;
    let url = SecretKeySelector { name: names::database_secret(object), key: "url".to_owned(), optional: None };
    let source = EnvVarSource { secret_key_ref: Some(url), ..EnvVarSource::default() };
    Some(EnvVar { name: "DATABASE_URL".to_owned(), value: None, value_from: Some(source) })
}

pub(super) fn value(name: &str, value: String) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value), value_from: None }
}

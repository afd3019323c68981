//! The names by which services prove to each other who they are.
//!
//! `hedgerow up` and the operator set the variables, and a service reads them.

/// The environment variable with the folder of the tokens by which a service proves who it is. It has a file for each
/// service that it calls, named after the callee, which is renewed while the service runs.
pub const TOKEN_DIR: &str = "AUTH_TOKEN_DIR";

/// The environment variable with the callers that a service admits: the subjects of their tokens, separated by commas,
/// or [`ANY`].
pub const ALLOW_FROM: &str = "AUTH_ALLOW_FROM";

/// The value of [`ALLOW_FROM`] that stands for every caller.
pub const ANY: &str = "any";

/// The name of the `ServiceAccount` whose tokens for the audience `hedgerow` have the role `admin`. No service runs as it.
pub const ADMIN_ACCOUNT: &str = "hedgerow-admin";

/// The subject of the tokens of a `ServiceAccount`.
#[must_use]
pub fn subject(namespace: &str, service_account: &str) -> String {
    format!("system:serviceaccount:{namespace}:{service_account}")
}

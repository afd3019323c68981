//! The names by which services prove to each other who they are.
//!
//! `hedgerow up` and the operator set the variables, and a service reads them.

#[cfg(feature = "kind")]
use std::collections::BTreeSet;

#[cfg(feature = "kind")]
use crate::{GATEWAY, MicroserviceSpec, Peer};

/// The environment variable with the folder of the tokens by which a service proves who it is. It has a file for each
/// service that it calls, named after the callee, which is renewed while the service runs.
pub const TOKEN_DIR: &str = "AUTH_TOKEN_DIR";

/// The environment variable with the callers that a service admits: the subjects of their tokens, separated by commas,
/// or [`ANY`].
pub const ALLOW_FROM: &str = "AUTH_ALLOW_FROM";

/// The value of [`ALLOW_FROM`] that stands for every caller.
pub const ANY: &str = "any";

/// The value of [`ALLOW_FROM`] for a service. `callers` are the services whose `calls` contain it. Peers that are labels
/// are left out, because they say nothing about a `ServiceAccount`: only the network admits them.
#[cfg(feature = "kind")]
#[must_use]
pub fn allow_from<'a>(
    namespace: &str,
    spec: &'a MicroserviceSpec,
    callers: impl IntoIterator<Item = &'a str>,
) -> String {
    let named = spec.network.allow_from.iter().filter_map(|peer| match peer {
        Peer::Name(name) => Some(name.as_str()),
        Peer::Labels(_) => None,
    });
    let gateway = spec.route.as_ref().map(|_| GATEWAY);
    let all: BTreeSet<&str> = named.chain(callers).chain(gateway).collect();
    if all.contains(ANY) {
        return ANY.to_owned();
    }
    all.into_iter().map(|name| subject(namespace, name)).collect::<Vec<_>>().join(",")
}

/// The name of the `ServiceAccount` whose tokens for the audience `hedgerow` have the role `admin`. No service runs as it.
pub const ADMIN_ACCOUNT: &str = "hedgerow-admin";

/// The names that no service may have: its pods would run as somebody else, or get tokens that every service accepts.
pub const RESERVED_NAMES: [&str; 4] = ["hedgerow", ADMIN_ACCOUNT, "hedgerow-crd", "hedgerow-operator"];

/// The subject of the tokens of a `ServiceAccount`.
#[must_use]
pub fn subject(namespace: &str, service_account: &str) -> String {
    format!("system:serviceaccount:{namespace}:{service_account}")
}

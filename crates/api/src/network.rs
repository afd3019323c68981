//! Where a service listens, and who reaches it.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::schema;

/// The ports a service listens on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = (
    "self.http != self.admin && (!has(self.grpc) || (self.grpc != self.http && self.grpc != self.admin))",
    "ports must differ (http is 8080 and admin 9090 where left out)"
))]
#[serde(rename_all = "camelCase")]
pub struct Ports {
    /// Requests over HTTP.
    #[serde(default = "Ports::default_http")]
    #[schemars(schema_with = "schema::port")]
    pub http: u16,
    /// Requests over gRPC, such as 50051. Left out: the service has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::port")]
    pub grpc: Option<u16>,
    /// Probes and metrics: /livez, /readyz and /metrics.
    #[serde(default = "Ports::default_admin")]
    #[schemars(schema_with = "schema::port")]
    pub admin: u16,
}

impl Ports {
    fn default_http() -> u16 {
        8080
    }

    fn default_admin() -> u16 {
        9090
    }
}

impl Default for Ports {
    fn default() -> Self {
        Self { http: Self::default_http(), grpc: None, admin: Self::default_admin() }
    }
}

/// How a service is exposed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// The type of the Service. One that is reached from outside of the cluster also needs any in network.allowFrom.
    #[serde(rename = "type", default)]
    #[schemars(schema_with = "schema::choice::<ServiceType>")]
    pub kind: ServiceType,
}

/// A Service's type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// Reached inside of the cluster only.
    #[default]
    ClusterIP,
    /// On a port of every node as well.
    NodePort,
    /// By a load balancer of the cloud as well.
    LoadBalancer,
}

/// What reaches a service through the gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Prefixes of paths, such as /inventory: of whole segments, so /inventory/1 belongs to it and /inventory-old does
    /// not. Of two services that want the same one, the older has it.
    #[schemars(schema_with = "schema::paths")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[x_kube(validation = (
        "self.all(path, path.matches('^/([A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*)?$') \
         && !path.matches('/[.][.]?(/|$)'))",
        "a path is / or one such as /orders or /v1/orders: it starts with a slash, ends without one, and no segment \
         is empty, . or .."
    ))]
    pub paths: Vec<String>,
    /// Whether the gateway passes gRPC through as well.
    #[serde(default)]
    pub grpc: bool,
}

/// Who may connect to a service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Who may connect, besides the gateway where there is a route: each is the name of another Microservice, the
    /// labels of pods of this namespace, or any for everyone. Empty: nobody.
    #[serde(default, deserialize_with = "peers", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::peers")]
    pub allow_from: Vec<Peer>,
}

/// Who may connect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Peer {
    /// `any` for everyone, or the name of a `Microservice`.
    Name(String),
    /// Labels that a pod of the namespace must have.
    Labels(BTreeMap<String, String>),
}

/// A null is the one thing in the list that a schema without a type cannot refuse; it names nobody.
fn peers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Peer>, D::Error> {
    let peers = Vec::<Option<Peer>>::deserialize(deserializer)?;
    Ok(peers.into_iter().flatten().collect())
}

/// The port of gRPC that a callee is expected to have when nothing says otherwise.
pub const DEFAULT_GRPC_PORT: u16 = 50051;

/// The environment variable that tells a caller where to reach `callee` over gRPC, such as `ORDER_HISTORY_GRPC_URL`.
#[must_use]
pub fn grpc_url_variable(callee: &str) -> String {
    format!("{}_GRPC_URL", callee.to_ascii_uppercase().replace('-', "_"))
}

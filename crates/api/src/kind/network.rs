//! Where a service listens, how it is exposed, and who may connect to it.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::schema;

/// The ports that the service listens on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = (
    "self.http != self.admin && (!has(self.grpc) || (self.grpc != self.http && self.grpc != self.admin))",
    "ports must differ (defaults: http 8080, admin 9090)"
))]
#[serde(rename_all = "camelCase")]
pub struct Ports {
    /// The port for HTTP requests.
    #[serde(default = "Ports::default_http")]
    #[schemars(schema_with = "schema::port")]
    pub http: u16,
    /// The port for gRPC requests, such as 50051. If not set, the service has no gRPC port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::port")]
    pub grpc: Option<u16>,
    /// The port for probes and metrics: /livez, /readyz and /metrics.
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

/// How the service is exposed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// The type of the Service. To be reachable from outside the cluster, network.allowFrom must also contain "any".
    #[serde(rename = "type", default)]
    #[schemars(schema_with = "schema::choice::<ServiceType>")]
    pub kind: ServiceType,
}

/// The type of a Service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// Reachable inside the cluster only.
    #[default]
    ClusterIP,
    /// Also reachable on a port of every node.
    NodePort,
    /// Also reachable through a cloud load balancer.
    LoadBalancer,
}

/// What the gateway routes to the service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = (
    "!has(self.auth) || !has(self.auth.rules) || self.auth.rules.all(rule, !has(rule.paths) || rule.paths.all(path, \
     path == '/' || self.paths.exists(prefix, prefix == '/' || path == prefix || path.startsWith(prefix + '/') \
     || prefix.startsWith(path + '/'))))",
    "the paths of a rule in auth.rules must be below paths of the route"
))]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Path prefixes, such as /inventory. A prefix matches whole segments: /inventory matches /inventory/1 but not
    /// /inventory-old. If two services claim a path, the older one wins.
    #[schemars(schema_with = "schema::paths")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[x_kube(validation = (
        "self.all(path, path.matches('^/([A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*)?$') \
         && !path.matches('/[.][.]?(/|$)'))",
        "a path must be / or have the form /orders or /v1/orders: it starts with a slash, does not end with one, and \
         no segment is empty, . or .."
    ))]
    pub paths: Vec<String>,
    /// Whether the gateway also routes gRPC.
    #[serde(default)]
    pub grpc: bool,
    /// Path prefixes below which every POST and PATCH honors Idempotency-Key: repeated with the same key, it takes
    /// effect once. The gateway may send such a request again if no response arrives. Others it sends once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::prefixes")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[x_kube(validation = (
        "self.all(path, path.matches('^/([A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*)?$') \
         && !path.matches('/[.][.]?(/|$)'))",
        "a path must be / or have the form /orders or /v1/orders: it starts with a slash, does not end with one, and \
         no segment is empty, . or .."
    ))]
    pub idempotency_keys: Vec<String>,
    /// Who may send which requests to the service through the gateway. If not set, every request needs a token where
    /// the gateway's AUTH is required. [`RouteAuth::parse`](crate::RouteAuth::parse) reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::auth")]
    pub auth: Option<Value>,
}

/// Who may connect to the service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Peers that may connect, in addition to the gateway (if there is a route) and the services whose calls contain
    /// this one. A peer is the name of another Microservice, a map of labels that pods of this namespace must have, or
    /// "any" for everything.
    #[serde(default, deserialize_with = "peers", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::peers")]
    pub allow_from: Vec<Peer>,
}

/// A peer that may connect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Peer {
    /// `any` for everything, or the name of a `Microservice`.
    Name(String),
    /// The labels that a pod of the namespace must have.
    Labels(BTreeMap<String, String>),
}

/// Skips nulls: the schema of the items has no type, so it cannot refuse them.
fn peers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Peer>, D::Error> {
    let peers = Vec::<Option<Peer>>::deserialize(deserializer)?;
    Ok(peers.into_iter().flatten().collect())
}

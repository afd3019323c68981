//! What a user asks for.

use k8s_openapi::api::core::v1::{EnvVar, ResourceRequirements};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{Database, MicroserviceStatus, Network, Ports, Route, Service, schema};

/// What the service is, and how it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, CustomResource, KubeSchema)]
#[kube(
    group = "hedgerow.dev",
    version = "v1alpha1",
    kind = "Microservice",
    plural = "microservices",
    shortname = "msvc",
    namespaced,
    status = "MicroserviceStatus",
    derive = "PartialEq",
    doc = "A service that the operator runs, scales, observes and gives a database of its own.",
    // A Service's name starts with a letter, and the longest name made of this one is that of the migration's pods.
    validation = (
        "self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must have at most 40 characters: a letter, then lower-case letters, digits and -, no - at the end"
    ),
    validation = (
        "!self.metadata.name.endsWith('-headless')",
        "metadata.name must not end in -headless: the second Service of another object may be called so"
    ),
    validation = (
        "self.metadata.name != 'any'",
        "metadata.name must not be any: it stands for everyone in network.allowFrom"
    ),
    validation = (
        "!has(self.spec.database) || has(self.spec.database.name) \
         || !(self.metadata.name in ['none', 'postgres', 'public', 'template0', 'template1'])",
        "spec.database.name must be set: PostgreSQL keeps the object's name for itself"
    ),
    validation = (
        "!has(self.spec.calls) || !(self.metadata.name in self.spec.calls)",
        "spec.calls must not contain the object's own name"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Status", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Schema", type_ = "integer", json_path = ".status.database.schemaVersion"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = ("!has(self.route) || !self.route.grpc || has(self.ports.grpc)", "route.grpc needs ports.grpc"),
    validation = (
        "!has(self.database) || !has(self.env) \
         || self.env.all(variable, !(variable.name in ['DATABASE_URL', 'DATABASE_POOL_SIZE']))",
        "env must not set DATABASE_URL or DATABASE_POOL_SIZE: they follow from database"
    ),
    validation = (
        "!has(self.calls) || !has(self.env) || self.calls.all(callee, !self.env.exists(variable, \
         variable.name == callee.upperAscii().replace('-', '_') + '_GRPC_URL'))",
        "env must not set NAME_GRPC_URL for a service in calls: the operator sets it"
    ),
    // Besides its pool a pod has a connection for its readiness. Every pod there may be is counted, one more that a
    // rollout starts, and two that still drain; then the migration, and one to look around with.
    validation = (
        "!has(self.database) \
         || (self.scaling.max + 3) * (self.database.poolSize + 1) + 2 <= self.database.connectionLimit",
        "database.connectionLimit must be at least (scaling.max + 3) * (database.poolSize + 1) + 2: \
         what a rollout at full scale needs"
    ),
    // What cannot be changed is compared here rather than inside of database, where a rule has nothing to compare
    // with once it was removed.
    validation = (
        "!has(oldSelf.database) || has(self.database)",
        "database cannot be removed: delete the object, and deletionPolicy says what becomes of the data"
    ),
    validation = (
        "!has(oldSelf.database) || !has(self.database) || (has(oldSelf.database.name) ? oldSelf.database.name : '') \
         == (has(self.database.name) ? self.database.name : '')",
        "database.name cannot be changed"
    ),
    validation = (
        "!has(oldSelf.database) || !has(self.database) || (has(oldSelf.database.server) ? oldSelf.database.server : '') \
         == (has(self.database.server) ? self.database.server : '')",
        "database.server cannot be changed"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct MicroserviceSpec {
    /// The image, with a tag other than latest or with a digest. It must keep the contract of a service: serve probes
    /// and metrics on the admin port, drain on SIGTERM, and, where it has a database, know the argument migrate.
    #[schemars(length(min = 1, max = 500))]
    #[x_kube(validation = (
        r"self.matches('@[a-z0-9]+:[a-f0-9]{32,}$') || (self.matches(':[A-Za-z0-9_][A-Za-z0-9_.-]*$') && !self.endsWith(':latest'))",
        "image needs a tag other than latest, or a digest: what runs must not change behind the object's back"
    ))]
    #[x_kube(validation = (
        r"self.matches('^([A-Za-z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@[a-z0-9]+:[a-f0-9]+)?$')",
        "image must be a reference such as registry.example:5000/team/orders:1.2.3"
    ))]
    pub image: String,
    /// The ports the service listens on.
    #[serde(default)]
    pub ports: Ports,
    /// More environment variables, as in a Pod. One called DRAIN_DELAY or SHUTDOWN_TIMEOUT takes the place of the
    /// operator's; a pod has 45 seconds for both together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::environment")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[x_kube(validation = (
        "self.all(variable, self.exists_one(other, other.name == variable.name))",
        "env must not name a variable twice"
    ))]
    #[x_kube(validation = (
        "self.all(variable, !(variable.name in ['HTTP_ADDR', 'GRPC_ADDR', 'ADMIN_ADDR']))",
        "env must not set HTTP_ADDR, GRPC_ADDR or ADMIN_ADDR: they follow from ports"
    ))]
    pub env: Vec<EnvVar>,
    /// Services that this one calls over gRPC, by the name of their Microservice. For each, the environment variable
    /// NAME_GRPC_URL (such as ORDER_HISTORY_GRPC_URL for order-history) is set to http://NAME-headless:PORT, and the
    /// callee's network policy admits this service. PORT is the callee's ports.grpc, or 50051 if it does not set one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::calls")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[x_kube(validation = (
        "self.all(callee, callee != 'any')",
        "calls must not contain any: name each service"
    ))]
    pub calls: Vec<String>,
    /// What a container asks for and may use. Where it says nothing of the CPU, 50m are requested; where it says
    /// nothing of the memory, 64Mi are requested and 256Mi are the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::resources")]
    pub resources: Option<ResourceRequirements>,
    /// How the service is exposed.
    #[serde(default)]
    pub service: Service,
    /// Whether pods get a token of their ServiceAccount, to talk to the Kubernetes API.
    #[serde(default)]
    pub automount_token: bool,
    /// A database of its own, which no other service can open. Left out: none. It can be added later, but not removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<Database>,
    /// How many pods there are.
    #[serde(default)]
    pub scaling: Scaling,
    /// What reaches the service through the gateway. Left out: nothing, the service is internal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// Who may connect to the service.
    #[serde(default)]
    pub network: Network,
}

/// How many pods: `min` where `max` is the same, else as many between them as the autoscaler wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = (
    "self.min <= self.max",
    "scaling.min (2 where left out) must not be greater than scaling.max (10 where left out)"
))]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// The fewest pods. From two on, one at a time may be evicted.
    #[serde(default = "Scaling::default_min")]
    #[schemars(range(min = 1, max = 1000))]
    pub min: i32,
    /// The most pods. Where it equals min there is no autoscaler.
    #[serde(default = "Scaling::default_max")]
    #[schemars(range(min = 1, max = 1000))]
    pub max: i32,
    /// The use of CPU that the autoscaler aims at, in percent of what is requested.
    #[serde(default = "Scaling::default_cpu")]
    #[schemars(range(min = 1, max = 1000))]
    pub cpu: i32,
    /// How long the load must have been lower before the autoscaler takes pods away, in seconds.
    #[serde(default = "Scaling::default_scale_down_seconds")]
    #[schemars(range(min = 0, max = 3600))]
    pub scale_down_seconds: i32,
}

impl Scaling {
    fn default_min() -> i32 {
        2
    }

    fn default_max() -> i32 {
        10
    }

    fn default_cpu() -> i32 {
        70
    }

    fn default_scale_down_seconds() -> i32 {
        300
    }

    /// Whether an autoscaler sets the number of pods.
    #[must_use]
    pub fn is_automatic(&self) -> bool {
        self.min < self.max
    }
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            min: Self::default_min(),
            max: Self::default_max(),
            cpu: Self::default_cpu(),
            scale_down_seconds: Self::default_scale_down_seconds(),
        }
    }
}

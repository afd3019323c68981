//! The object and its spec.

use k8s_openapi::api::core::v1::{EnvVar, ResourceRequirements};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{
    database::Database,
    network::{Network, Ports, Route, Service},
    schema,
    status::MicroserviceStatus,
};

/// The desired state of the service.
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
    doc = "A service that the operator runs and scales, optionally with a database of its own.",
    // The name of a Service must start with a letter, and the longest derived name is that of a migration's pods.
    validation = (
        "self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must have at most 40 characters: a lower-case letter, followed by lower-case letters, digits or -, \
         not ending with -"
    ),
    validation = (
        "!self.metadata.name.endsWith('-headless')",
        "metadata.name must not end with -headless: it could clash with the headless Service of another object"
    ),
    validation = (
        "self.metadata.name != 'any'",
        "metadata.name must not be \"any\", which stands for everything in network.allowFrom"
    ),
    // `identity::RESERVED_NAMES`.
    validation = (
        "!(self.metadata.name in ['hedgerow', 'hedgerow-admin', 'hedgerow-crd', 'hedgerow-operator'])",
        "metadata.name must not be hedgerow, hedgerow-admin, hedgerow-crd or hedgerow-operator, which stand for others"
    ),
    validation = (
        "!has(self.spec.database) || has(self.spec.database.name) \
         || !(self.metadata.name in ['none', 'postgres', 'public', 'template0', 'template1'])",
        "spec.database.name must be set: PostgreSQL reserves the name of this object"
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
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    // Shown by `kubectl get -o wide`.
    printcolumn(name = "Paths", type_ = "string", json_path = ".spec.route.paths", priority = 1),
    printcolumn(name = "Calls", type_ = "string", json_path = ".spec.calls", priority = 1),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.image", priority = 1)
)]
#[x_kube(
    validation = ("!has(self.route) || !self.route.grpc || has(self.ports.grpc)", "route.grpc requires ports.grpc"),
    validation = (
        "!has(self.database) || !has(self.env) \
         || self.env.all(variable, !(variable.name in ['DATABASE_URL', 'DATABASE_POOL_SIZE']))",
        "env must not set DATABASE_URL or DATABASE_POOL_SIZE: the operator sets them from database"
    ),
    validation = (
        "!has(self.calls) || !has(self.env) || self.calls.all(callee, !self.env.exists(variable, \
         variable.name == callee.upperAscii().replace('-', '_') + '_GRPC_URL'))",
        "env must not set NAME_GRPC_URL for a service NAME in calls: the operator sets it"
    ),
    // A pod has its pool and a connection for its readiness check. A rollout adds one new pod and two that still drain.
    // A migration and a person with psql need one connection each.
    validation = (
        "!has(self.database) \
         || (self.scaling.max + 3) * (self.database.poolSize + 1) + 2 <= self.database.connectionLimit",
        "database.connectionLimit must be at least (scaling.max + 3) * (database.poolSize + 1) + 2, \
         which a rollout at full scale needs"
    ),
    // Immutable fields of database are compared here: a transition rule inside database would not run if an optional
    // field is added or removed.
    validation = (
        "!has(oldSelf.database) || has(self.database)",
        "database cannot be removed: delete the object, and database.deletionPolicy decides what happens to the data"
    ),
    validation = (
        "!has(oldSelf.database) || !has(self.database) || (has(oldSelf.database.name) ? oldSelf.database.name : '') \
         == (has(self.database.name) ? self.database.name : '')",
        "database.name is immutable"
    ),
    validation = (
        "!has(oldSelf.database) || !has(self.database) || (has(oldSelf.database.server) ? oldSelf.database.server : '') \
         == (has(self.database.server) ? self.database.server : '')",
        "database.server is immutable"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct MicroserviceSpec {
    /// The image, with a digest or a tag other than latest. It must meet the service contract: serve probes and metrics
    /// on the admin port, drain on SIGTERM, and, if it has a database, run its migrations when
    /// started with the argument migrate.
    #[schemars(length(min = 1, max = 500))]
    #[x_kube(validation = (
        r"self.matches('@[a-z0-9]+:[a-f0-9]{32,}$') || (self.matches(':[A-Za-z0-9_][A-Za-z0-9_.-]*$') && !self.endsWith(':latest'))",
        "image must have a tag other than latest, or a digest, so that it always names the same version"
    ))]
    #[x_kube(validation = (
        r"self.matches('^([A-Za-z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@[a-z0-9]+:[a-f0-9]+)?$')",
        "image must be an image reference such as registry.example:5000/team/orders:1.2.3"
    ))]
    pub image: String,
    /// The ports that the service listens on.
    #[serde(default)]
    pub ports: Ports,
    /// Additional environment variables, as in a Pod. DRAIN_DELAY and SHUTDOWN_TIMEOUT override the operator's values
    /// (5s and 25s). Together they must stay below the 45 seconds that a pod has to terminate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::environment")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[x_kube(validation = (
        "self.all(variable, self.exists_one(other, other.name == variable.name))",
        "env must not contain a variable twice"
    ))]
    #[x_kube(validation = (
        "self.all(variable, !(variable.name in ['HTTP_ADDR', 'GRPC_ADDR', 'ADMIN_ADDR']))",
        "env must not set HTTP_ADDR, GRPC_ADDR or ADMIN_ADDR: the operator sets them from ports"
    ))]
    pub env: Vec<EnvVar>,
    /// The names of the Microservices that this one calls over gRPC. For each, the operator sets the environment
    /// variable NAME_GRPC_URL (ORDER_HISTORY_GRPC_URL for order-history) to http://NAME-headless:PORT, and the callee's
    /// network policy admits this service. PORT is ports.grpc of the callee, or 50051 if the callee does not exist yet
    /// or does not set it. If services verify tokens, the pods also get a token for each callee, in the file NAME of the
    /// folder AUTH_TOKEN_DIR.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::calls")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[x_kube(validation = (
        "self.all(callee, callee != 'any')",
        "calls must not contain \"any\": name each service"
    ))]
    #[x_kube(validation = (
        "self.all(callee, callee != 'hedgerow')",
        "calls must not contain \"hedgerow\": every service would accept such a token"
    ))]
    pub calls: Vec<String>,
    /// The resource requests and limits of a container. If neither sets CPU, 50m is requested. If neither sets memory,
    /// 64Mi is requested and the limit is 256Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::resources")]
    pub resources: Option<ResourceRequirements>,
    /// How the service is exposed.
    #[serde(default)]
    pub service: Service,
    /// Whether pods get the token of their ServiceAccount, for access to the Kubernetes API.
    #[serde(default)]
    pub automount_token: bool,
    /// A database for this service, which no other service can open. It can be added later but not removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<Database>,
    /// The number of pods.
    #[serde(default)]
    pub scaling: Scaling,
    /// What the gateway routes to the service. If not set, the service is internal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// Who may connect to the service.
    #[serde(default)]
    pub network: Network,
    /// A digest of the configuration of the operator that this object is meant for. An operator with another one
    /// reconciles the object too, but reports the generation before in status.observedGeneration, so that helm --wait
    /// waits for the right one. Set by the chart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub configuration: Option<String>,
}

/// The number of pods. An autoscaler sets it if min and max differ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = (
    "self.min <= self.max",
    "scaling.min (default 2) must not be greater than scaling.max (default 10)"
))]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// The minimum number of pods.
    #[serde(default = "Scaling::default_min")]
    #[schemars(range(min = 1, max = 1000))]
    pub min: i32,
    /// The maximum number of pods. If it equals min, there is no autoscaler. With two or more, a PodDisruptionBudget lets
    /// one pod at a time be evicted.
    #[serde(default = "Scaling::default_max")]
    #[schemars(range(min = 1, max = 1000))]
    pub max: i32,
    /// The CPU utilization that the autoscaler targets, in percent of the requested CPU.
    #[serde(default = "Scaling::default_cpu")]
    #[schemars(range(min = 1, max = 1000))]
    pub cpu: i32,
    /// How long the load must be lower before the autoscaler removes pods, in seconds.
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

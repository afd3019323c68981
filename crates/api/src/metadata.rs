//! The names that programs share: annotations, labels and finalizers under `hedgerow.dev/`, and how services find each
//! other.
//!
//! Objects in clusters carry these names, so none of them may change.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The name of the `Microservice` that routes requests to all others.
///
/// `hedgerow up` passes it their routes, and the operator's network policies admit it to services with a route.
pub const GATEWAY: &str = "gateway";

/// The gRPC port of a callee that does not exist yet or does not set `ports.grpc`.
pub const DEFAULT_GRPC_PORT: u16 = 50051;

/// The environment variable with the gRPC URL of `callee`, such as `ORDER_HISTORY_GRPC_URL` for `order-history`.
///
/// `hedgerow up` and the operator set it, and a service reads it.
#[must_use]
pub fn grpc_url_variable(callee: &str) -> String {
    format!("{}_GRPC_URL", callee.to_ascii_uppercase().replace('-', "_"))
}

/// Annotations.
pub mod annotations {
    /// Fixes the ports of a service on a laptop, so that its addresses stay the same when services come and go. Read by
    /// `hedgerow up`.
    ///
    /// The value is a number n from 0 to 999. The service then listens on 127.0.0.1: HTTP on port 8080 + n, the admin
    /// port on 9090 + n and, if it has `ports.grpc`, gRPC on 50050 + n. The gateway has 0.
    pub const LOCAL_PORT: &str = "hedgerow.dev/local-port";

    /// The command that starts a service on a laptop, such as `python greeter.py`, run in the folder of the file. Read
    /// by `hedgerow up`.
    ///
    /// If the service has a database, the command is also run with the argument `migrate`, as the image is in a
    /// cluster. Without this annotation, the command is the binary of the object's name beside `hedgerow`.
    pub const COMMAND: &str = "hedgerow.dev/command";

    /// Requests to try first, one a line: `METHOD /path [JSON body]`. Read by `hedgerow up`, which prints them as curl
    /// commands, in order.
    ///
    /// An example is `POST /orders {"product": "product_123"}`.
    pub const TRY: &str = "hedgerow.dev/try";

    /// The route of a Service, as a [`RouteAnnotation`](super::RouteAnnotation) in JSON. Written by the operator, or by
    /// anyone for a Service without a `Microservice`; read by the gateway.
    pub const ROUTE: &str = "hedgerow.dev/route";

    /// What a `Microservice` asks to adopt: `unmarked` for a database without an ownership comment, for example after a
    /// restore, or the current ownership comment. Without an entry under `adopt` in the Secret of the server, which
    /// only an administrator can write, it has no effect. Read by the operator.
    pub const ADOPT: &str = "hedgerow.dev/adopt";

    /// Accepts that the database server of a `Microservice` is another one than before, such as a new one after a loss
    /// of data. The value is the system identifier of the new server. Read by the operator.
    pub const ACCEPT_SERVER: &str = "hedgerow.dev/accept-server";

    /// The ownership comment of the database that a Secret is for, on the Secret. Written and read by the operator.
    pub const OWNERSHIP: &str = "hedgerow.dev/mark";

    /// The system identifier of the server of the database that a Secret is for, on the Secret. Written and read by the
    /// operator.
    pub const SERVER: &str = "hedgerow.dev/server";

    /// A hash of what a migration depends on, on its Job and on the pods that need the migration. Written and read by
    /// the operator.
    pub const MIGRATION: &str = "hedgerow.dev/migration";

    /// How a migration failed before, on the Job that tries it again. Written and read by the operator.
    pub const MIGRATION_FAILURE: &str = "hedgerow.dev/migration-failure";

    /// A digest of the database password, on pods: they are replaced when it changes. Written by the operator.
    pub const CREDENTIALS_DIGEST: &str = "hedgerow.dev/credentials";

    /// On pods that get the token of their ServiceAccount: the uid of the account, to which the token is bound.
    pub const ACCOUNT_UID: &str = "hedgerow.dev/service-account-uid";

    /// The version of Hedgerow that the `CustomResourceDefinition` comes from. Written and read by `operator crd
    /// --apply`, which never replaces a newer one.
    pub const VERSION: &str = "hedgerow.dev/version";
}

/// Labels.
pub mod labels {
    /// Is `true` on pods of services with a database. Written by the operator; the chart's network policy of the
    /// bundled Postgres selects by it.
    pub const DATABASE: &str = "hedgerow.dev/database";

    /// Is `true` on Secrets with the admin URL of a database server, so that `env` of a `Microservice` cannot name them.
    /// Written by an administrator, and by the operator on the Secret of the bundled Postgres; read by the operator.
    pub const SERVER: &str = "hedgerow.dev/server";
}

/// Finalizers.
pub mod finalizers {
    /// Keeps a `Microservice` until its database is dropped. Written and removed by the operator.
    pub const DATABASE: &str = "hedgerow.dev/database";
}

/// The value of the annotation [`ROUTE`](annotations::ROUTE). Unknown fields are ignored, as a later version may have
/// added them. An unknown part of `auth` is not ignored: it closes the route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteAnnotation {
    /// Whether the gateway also routes gRPC.
    #[serde(default)]
    pub grpc: bool,
    /// The path prefixes that the Service claims.
    pub paths: Vec<String>,
    /// The path prefixes below which the Service honors `Idempotency-Key`.
    #[serde(default, rename = "idempotencyKeys", skip_serializing_if = "Vec::is_empty")]
    pub idempotency_keys: Vec<String>,
    /// Who may send which requests, for [`RouteAuth::parse`](crate::RouteAuth::parse).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Value>,
}

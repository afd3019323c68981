//! The database of a service.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// A database for the service, with a role that can open this database only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Database {
    /// The name of the database and of its role. Defaults to the name of the object. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = (
        "self.matches('^[a-z_][a-z0-9_-]*$')",
        "database.name must start with a lower-case letter or _, followed by lower-case letters, digits, _ or -"
    ))]
    #[x_kube(validation = (
        "!self.startsWith('pg_') && !(self in ['none', 'postgres', 'public', 'template0', 'template1'])",
        "database.name must not be a name that PostgreSQL reserves"
    ))]
    pub name: Option<String>,
    /// The Secret with the URL of the database server, for an administrator. With the label hedgerow.dev/server=true, no
    /// env can name it. Defaults to the operator's server. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = (
        "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
        "database.server must be the name of a Secret"
    ))]
    pub server: Option<String>,
    /// The maximum number of connections that a pod uses for requests. Its readiness check uses one more.
    #[serde(default = "Database::default_pool_size")]
    #[schemars(range(min = 3, max = 1000))]
    pub pool_size: i32,
    /// The maximum number of connections of the role. It must be at least (scaling.max + 3) * (poolSize + 1) + 2, which
    /// a rollout at full scale needs.
    #[serde(default = "Database::default_connection_limit")]
    #[schemars(range(min = 1, max = 100_000))]
    pub connection_limit: i32,
    /// What happens to the database, the role and the Secret when the object is deleted. Retain keeps them, and a new
    /// object of the same name adopts them. Delete drops them.
    #[serde(default)]
    #[schemars(schema_with = "schema::choice::<DeletionPolicy>")]
    pub deletion_policy: DeletionPolicy,
}

impl Database {
    fn default_pool_size() -> i32 {
        8
    }

    fn default_connection_limit() -> i32 {
        120
    }
}

/// What happens to a database when its object is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// The database, the role and the Secret are kept, and a new object of the same name adopts them.
    #[default]
    Retain,
    /// They are dropped.
    Delete,
}

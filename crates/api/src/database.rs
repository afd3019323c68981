//! A service's own database.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// A service's own database, with a role that opens it and no other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Database {
    /// The name of the database and of its role. Left out: the object's name. It cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = (
        "self.matches('^[a-z_][a-z0-9_-]*$')",
        "database.name must be a lower-case letter or _, then lower-case letters, digits, _ and -"
    ))]
    #[x_kube(validation = (
        "!self.startsWith('pg_') && !(self in ['none', 'postgres', 'public', 'template0', 'template1'])",
        "PostgreSQL keeps this name for itself"
    ))]
    pub name: Option<String>,
    /// The Secret whose url opens the database server as an administrator. Left out: the operator's default. It cannot
    /// be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = (
        "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
        "database.server must be the name of a Secret"
    ))]
    pub server: Option<String>,
    /// The most connections that a pod's requests use; its readiness uses one more.
    #[serde(default = "Database::default_pool_size")]
    #[schemars(range(min = 3, max = 1000))]
    pub pool_size: i32,
    /// The most connections of the role. They must do for a rollout at full scale:
    /// (scaling.max + 3) * (poolSize + 1) + 2.
    #[serde(default = "Database::default_connection_limit")]
    #[schemars(range(min = 1, max = 100_000))]
    pub connection_limit: i32,
    /// What becomes of database, role and Secret when the object is deleted: Retain keeps them for a new object of the
    /// same name, Delete drops them.
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

/// What becomes of a database when its object is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// Database, role and Secret stay, and a new object of that name takes them up.
    #[default]
    Retain,
    /// They are dropped.
    Delete,
}

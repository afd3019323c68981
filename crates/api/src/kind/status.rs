//! The status of a `Microservice`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// The observed state of the service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MicroserviceStatus {
    /// The generation of the spec that this status describes; -1 before the first reconcile.
    pub observed_generation: i64,
    /// The URL of the service inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The image that currently serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The number of pods.
    #[serde(default)]
    pub replicas: i32,
    /// The number of ready pods.
    #[serde(default)]
    pub ready_replicas: i32,
    /// The database of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseStatus>,
    /// The conditions. Ready summarizes them. Reconciling means that the operator is still working. Stalled means that
    /// the object or the cluster must change first.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The database of the service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseStatus {
    /// The name of the database.
    pub name: String,
    /// The Secret with the URL of the database.
    pub secret_name: String,
    /// The system identifier of the server that the database is on, or unknown if the server does not reveal it. It is
    /// set once the database is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<String>,
    /// The schema version that the last migration reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<i64>,
}

//! A Postgres server in the namespace, independent of Hedgerow.

use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use serde_json::json;

use super::{Namespace, SOON, eventually};

impl Namespace {
    /// Starts the server `postgres` with the superuser `postgres` and the password `test`.
    pub async fn start_postgres(&self) {
        let pod = json!({
            "metadata": { "name": "postgres", "labels": { "app": "postgres" } },
            "spec": {
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 999, "runAsGroup": 999, "fsGroup": 999,
                    "seccompProfile": { "type": "RuntimeDefault" },
                },
                "volumes": [{ "name": "run", "emptyDir": {} }],
                "containers": [{
                    "name": "postgres", "image": "postgres:15", "imagePullPolicy": "IfNotPresent",
                    "args": ["postgres", "-c", "max_connections=300"],
                    "env": [{ "name": "POSTGRES_PASSWORD", "value": "test" }],
                    "volumeMounts": [{ "name": "run", "mountPath": "/var/run/postgresql" }],
                    "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
                    "readinessProbe": { "exec": { "command": ["pg_isready", "-h", "127.0.0.1"] }, "periodSeconds": 1 },
                }],
            },
        });
        let service = json!({
            "metadata": { "name": "postgres" },
            "spec": { "selector": { "app": "postgres" }, "ports": [{ "port": 5432 }] },
        });
        self.create::<Pod>(pod).await;
        self.create::<Service>(service).await;
        eventually("Postgres accepts connections", SOON, async || {
            self.psql("postgres", "SELECT 1").await == Ok("1".to_owned())
        })
        .await;
    }

    /// Creates the Secret of an admin of the server.
    pub async fn admin_secret(&self, name: &str, user: &str, password: &str) {
        let host = format!("postgres.{}.svc", self.name);
        let url = format!("postgres://{user}:{password}@{host}:5432/postgres");
        self.create::<Secret>(json!({ "metadata": { "name": name }, "stringData": { "url": url } })).await;
    }

    /// Runs SQL as the superuser.
    ///
    /// # Errors
    /// Returns the error message of `psql`.
    pub async fn psql(&self, database: &str, sql: &str) -> Result<String, String> {
        self.exec("postgres", &["psql", "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-qtAc", sql, database]).await
    }
}

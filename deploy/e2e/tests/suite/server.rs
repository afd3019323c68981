//! A Postgres outside the chart, with the Secret that `CloudNativePG` creates for the superuser of a cluster.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use crate::{data, release::Release};

/// The Secret of `CloudNativePG` 1.27 for the superuser of the cluster `postgres`, who is for every database (`*`).
fn superuser_secret(namespace: &str) -> Value {
    let (short, full) = (format!("postgres.{namespace}"), format!("postgres.{namespace}.svc.cluster.local"));
    let uri = |host: &str| format!("postgresql://postgres:test@{host}:5432/*");
    let jdbc = |host: &str| format!("jdbc:postgresql://{host}:5432/*?password=test&user=postgres");
    json!({
        "metadata": { "name": "postgres-superuser" },
        "type": "kubernetes.io/basic-auth",
        "stringData": {
            "username": "postgres", "user": "postgres", "password": "test", "dbname": "*", "host": "postgres",
            "port": "5432", "pgpass": "postgres:5432:*:postgres:test\n",
            "uri": uri(&short), "jdbc-uri": jdbc(&short), "fqdn-uri": uri(&full), "fqdn-jdbc-uri": jdbc(&full),
        },
    })
}

pub async fn an_external_server_works(_: Arc<Release>) {
    let on = Release::prepare("-server").await;
    on.start_postgres().await;
    on.create::<Secret>(superuser_secret(&on.name)).await;
    let values = [r#"postgres.adminSecret="postgres-superuser""#, "postgres.bundled.enabled=false"];
    on.install(&values).await.expect("an install");
    assert!(on.kubectl(&["get", "statefulset", "hedgerow-postgres"]).await.is_err(), "no Postgres is bundled");
    let user = data::write(&on).await;
    data::check(&on, &user).await;
    let owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'users'";
    assert_eq!(on.psql("postgres", owner).await, Ok("users".to_owned()));
    on.uninstall().await;
    on.remove().await;
}

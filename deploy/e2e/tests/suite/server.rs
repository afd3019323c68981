//! A Postgres outside the chart, whose admin is not a superuser, with a Secret in the form of `CloudNativePG`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use crate::{data, release::Release};

pub async fn an_external_server_works(_: Arc<Release>) {
    let on = Release::prepare("-server").await;
    on.start_postgres().await;
    on.psql("postgres", "CREATE ROLE keeper LOGIN CREATEROLE CREATEDB PASSWORD 'secret'").await.expect("an admin");
    let uri = format!("postgresql://keeper:secret@postgres.{}.svc:5432/postgres", on.name);
    let secret = json!({ "metadata": { "name": "cluster-superuser" }, "stringData": { "uri": uri } });
    on.create::<Secret>(secret).await;
    let values = [r#"postgres.adminSecret="cluster-superuser""#, "postgres.bundled.enabled=false"];
    on.install(&values).await.expect("an install");
    assert!(on.kubectl(&["get", "statefulset", "hedgerow-postgres"]).await.is_err(), "no Postgres is bundled");
    let user = data::write(&on).await;
    data::check(&on, &user).await;
    let owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'users'";
    assert_eq!(on.psql("postgres", owner).await, Ok("users".to_owned()));
    on.uninstall().await;
    on.remove().await;
}

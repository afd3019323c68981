//! Databases, through the operator. `tests/database` tests all rules against a server directly.

use std::{collections::HashSet, sync::Arc};

use api::Microservice;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use test_support::cluster::{SOON, eventually, image, is};

use crate::installation::{ADMIN, Installation};

fn small(database: &Value) -> Value {
    json!({ "image": image("users"), "database": database, "scaling": { "min": 1, "max": 1 } })
}

pub async fn a_foreign_database_is_not_adopted(on: Arc<Installation>) {
    on.psql("postgres", "CREATE ROLE theirs").await.expect("a role");
    on.psql("postgres", "CREATE DATABASE theirs OWNER theirs").await.expect("a database");
    on.apply("theirs", small(&json!({}))).await;
    let message = on.unready("theirs", "DatabaseNotOurs").await;
    assert!(message.contains("\"theirs\""), "{message}");
    assert!(is(&on.get("theirs").await, "Stalled", "True", "DatabaseNotOurs"));
    let comment =
        "SELECT coalesce(shobj_description(oid, 'pg_database'), 'none') FROM pg_database WHERE datname = 'theirs'";
    assert_eq!(on.psql("postgres", comment).await, Ok("none".to_owned()));

    let adopt = json!({ "metadata": { "annotations": { "hedgerow.dev/adopt": "unmarked" } } });
    on.api::<Microservice>().patch("theirs", &PatchParams::default(), &Patch::Merge(adopt)).await.expect("annotated");
    // The object alone cannot take it.
    let permitted = json!({ "stringData": { "adopt": format!("theirs={}/theirs", on.name) } });
    assert!(message.contains(&format!("list theirs={}/theirs", on.name)), "{message}");
    on.api::<Secret>().patch(ADMIN, &PatchParams::default(), &Patch::Merge(permitted)).await.expect("permitted");
    on.ready("theirs").await;
}

pub async fn the_second_object_for_a_database_is_refused(on: Arc<Installation>) {
    on.apply("one", small(&json!({ "name": "shared" }))).await;
    on.ready("one").await;
    on.apply("two", small(&json!({ "name": "shared" }))).await;
    let message = on.unready("two", "DatabaseTaken").await;
    assert!(message.contains(&format!("belongs to {}/one", on.name)), "{message}");
    assert!(is(&on.get("one").await, "Ready", "True", "Ready"));
}

pub async fn drift_in_the_database_is_repaired(on: Arc<Installation>) {
    on.apply("drifting", small(&json!({}))).await;
    on.ready("drifting").await;
    on.psql("postgres", "ALTER ROLE drifting CONNECTION LIMIT 3 CREATEDB PASSWORD 'lost'").await.expect("drift");
    on.psql("postgres", "GRANT CONNECT ON DATABASE drifting TO PUBLIC").await.expect("drift");
    on.psql("postgres", "ALTER DATABASE drifting OWNER TO postgres").await.expect("drift");
    let state = "SELECT rolconnlimit, rolcreatedb, has_database_privilege('pg_monitor', 'drifting', 'CONNECT'), \
                 pg_get_userbyid(datdba) FROM pg_roles, pg_database WHERE rolname = 'drifting' AND datname = 'drifting'";
    let good = Ok("120|f|f|drifting".to_owned());
    eventually("the drift is repaired", SOON, async || on.psql("postgres", state).await == good).await;
    // The password matches the Secret again: new pods can log in.
    for pod in on.pods("drifting").await {
        on.api::<k8s_openapi::api::core::v1::Pod>()
            .delete(&pod.name_any(), &DeleteParams::default())
            .await
            .expect("it");
    }
    on.ready("drifting").await;
}

pub async fn a_lost_secret_is_recreated_and_the_pods_replaced(on: Arc<Installation>) {
    on.apply("secretless", small(&json!({}))).await;
    on.ready("secretless").await;
    let names =
        |pods: Vec<k8s_openapi::api::core::v1::Pod>| pods.iter().map(ResourceExt::name_any).collect::<HashSet<_>>();
    let (pods, secrets) = (names(on.pods("secretless").await), on.api::<Secret>());
    let before = secrets.get("secretless-database").await.expect("a Secret").data;
    secrets.delete("secretless-database", &DeleteParams::default()).await.expect("deleting succeeds");
    eventually("a new Secret", SOON, async || {
        secrets.get_opt("secretless-database").await.expect("a response").is_some_and(|secret| secret.data != before)
    })
    .await;
    eventually("new pods", SOON, async || {
        let now = names(on.pods("secretless").await);
        !now.is_empty() && now.is_disjoint(&pods)
    })
    .await;
    on.ready("secretless").await;
    let events = on.events("secretless").await;
    assert!(events.iter().any(|event| event.starts_with("SecretRenewed")), "{events:?}");
}

pub async fn an_admin_need_not_be_a_superuser(on: Arc<Installation>) {
    on.psql("postgres", "CREATE ROLE managed LOGIN CREATEDB CREATEROLE PASSWORD 'managed'").await.expect("a role");
    // The operator, with its superuser, has revoked CONNECT from PUBLIC.
    on.psql("postgres", "GRANT CONNECT ON DATABASE postgres TO managed").await.expect("a grant");
    on.admin_secret("managed-postgres", "managed", "managed").await;
    on.apply("humble", small(&json!({ "server": "managed-postgres" }))).await;
    on.ready("humble").await;
}

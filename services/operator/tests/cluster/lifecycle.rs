//! Creation and deletion of objects.

use std::{sync::Arc, time::Instant};

use api::Microservice;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use test_support::cluster::{SOON, eventually, image};

use crate::installation::Installation;

pub async fn an_object_with_a_database_becomes_ready_and_serves(on: Arc<Installation>) {
    let begun = Instant::now();
    // Without an autoscaler, which could change the replica count and the status at any time.
    on.apply("first", json!({ "image": image("users"), "database": {}, "scaling": { "min": 2, "max": 2 } })).await;
    let object = on.ready("first").await;
    println!("ready after {:.1} s", begun.elapsed().as_secs_f64());
    let status = object.status.expect("a status");
    let migrations = concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations/users");
    let latest = std::fs::read_dir(migrations).expect("its migrations").count();
    assert_eq!(status.database.expect("a database").schema_version, i64::try_from(latest).ok());
    assert_eq!((status.replicas, status.ready_replicas), (2, 2));
    assert_eq!(status.image, Some(image("users")));
    assert_eq!(status.url, Some(format!("http://first.{}.svc:8080", on.name)));
    assert_eq!(on.request("first", "/users").await.expect("a response"), "[]");
}

pub async fn a_retained_database_is_reused(on: Arc<Installation>) {
    let spec = json!({ "image": image("users"), "database": {}, "scaling": { "min": 1, "max": 1 } });
    on.apply("retained", spec.clone()).await;
    on.ready("retained").await;
    let insert = "INSERT INTO users (id, name, email) VALUES (gen_random_uuid(), 'Ada', 'ada@example.com')";
    on.psql("retained", insert).await.expect("a row");
    let password = on.api::<Secret>().get("retained-database").await.expect("a Secret").data;
    on.delete("retained").await;
    eventually("the pods are gone", SOON, async || on.pods("retained").await.is_empty()).await;

    on.apply("retained", spec).await;
    on.ready("retained").await;
    assert_eq!(on.api::<Secret>().get("retained-database").await.expect("the Secret").data, password);
    let users: Value =
        serde_json::from_str(&on.request("retained", "/users").await.expect("a response")).expect("JSON");
    assert_eq!(users[0]["name"], "Ada");
}

pub async fn deletion_policy_delete_leaves_nothing_behind(on: Arc<Installation>) {
    let database = json!({ "deletionPolicy": "Delete" });
    let spec = json!({ "image": image("users"), "database": database, "scaling": { "min": 1, "max": 1 } });
    on.apply("dropped", spec).await;
    on.ready("dropped").await;
    on.delete("dropped").await;
    let left = "SELECT count(*) FROM pg_database WHERE datname = 'dropped'";
    assert_eq!(on.psql("postgres", left).await, Ok("0".to_owned()));
    let left = "SELECT count(*) FROM pg_roles WHERE rolname = 'dropped'";
    assert_eq!(on.psql("postgres", left).await, Ok("0".to_owned()));
    eventually("the Secret is gone", SOON, async || {
        on.api::<Secret>().get_opt("dropped-database").await.expect("a response").is_none()
    })
    .await;
}

/// A server where nothing listens.
async fn unreachable(on: &Installation) -> Value {
    let url = "postgres://admin:secret@127.0.0.1:1/postgres";
    on.create::<Secret>(json!({ "metadata": { "name": "nowhere" }, "stringData": { "url": url } })).await;
    let database = json!({ "server": "nowhere", "deletionPolicy": "Delete" });
    json!({ "image": image("users"), "database": database, "scaling": { "min": 1, "max": 1 } })
}

pub async fn the_status_says_why_a_deleted_object_still_exists(on: Arc<Installation>) {
    let spec = unreachable(&on).await;
    on.apply("held", spec).await;
    on.unready("held", "ServerUnreachable").await;
    let objects = on.api::<Microservice>();
    objects.delete("held", &DeleteParams::default()).await.expect("deleting succeeds");
    let text = on.unready("held", "DatabaseNotDropped").await;
    assert!(text.contains("127.0.0.1:1") && text.contains("Retain"), "{text}");
    // What the message recommends.
    let retain = json!({ "spec": { "database": { "deletionPolicy": "Retain" } } });
    objects.patch("held", &PatchParams::default(), &Patch::Merge(retain)).await.expect("patching succeeds");
    eventually("the object is gone", SOON, async || objects.get_opt("held").await.expect("a response").is_none()).await;
}

/// The operator goes with its namespace, before the object does.
pub async fn a_database_does_not_hold_a_deleted_namespace(_: Arc<Installation>) {
    let on = Installation::start_as("-deleted").await;
    let spec = unreachable(&on).await;
    on.apply("held", spec).await;
    on.unready("held", "ServerUnreachable").await;
    on.remove().await;
    let namespaces: Api<Namespace> = Api::all(on.client.clone());
    eventually("the namespace is gone", SOON, async || {
        namespaces.get_opt(&on.name).await.expect("a response").is_none()
    })
    .await;
}

//! Failures are reported with their cause, and the service recovers once it is fixed.

use std::sync::Arc;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::ResourceQuota};
use kube::api::DeleteParams;
use serde_json::{Value, json};
use test_support::cluster::{image, is, message};

use crate::installation::Installation;

fn small(image: &str, database: &Value) -> Value {
    json!({ "image": image, "database": database, "scaling": { "min": 1, "max": 1 } })
}

pub async fn a_missing_image_is_reported_and_recovered_from(on: Arc<Installation>) {
    let spec = |image: &str| json!({ "image": image, "scaling": { "min": 1, "max": 1 } });
    let recorder = on.record("imageless").await;
    on.apply("imageless", spec("localhost/hedgerow/nothing:1")).await;
    let object = on.wait("imageless", "it is stalled", |object| is(object, "Stalled", "True", "ImagePull")).await;
    let text = message(&object, "Ready");
    assert!(text.contains("image localhost/hedgerow/nothing:1 cannot be pulled"), "{text}");
    let events = on.events("imageless").await;
    assert!(events.iter().any(|event| event.starts_with("ImagePull")), "{events:?}");
    let mark = recorder.mark();
    on.apply("imageless", small(&image("users"), &json!({}))).await;
    on.ready("imageless").await;
    // Tools give up on an object that is stalled for a moment, for example because of the pods of the broken release.
    recorder.assert_never("Stalled", mark);
    recorder.assert_truthful();
}

pub async fn a_crashing_container_is_reported_with_its_message(on: Arc<Installation>) {
    // A service that needs a database, without one.
    let spec = json!({ "image": image("users"), "scaling": { "min": 1, "max": 1 } });
    on.apply("crashing", spec).await;
    let text = on.unready("crashing", "Crashing").await;
    assert!(text.contains("exit code 2") && text.contains("DATABASE_URL"), "{text}");
    on.wait("crashing", "it is stalled after three crashes", |object| is(object, "Stalled", "True", "Crashing")).await;
    on.apply("crashing", small(&image("users"), &json!({}))).await;
    on.ready("crashing").await;
}

pub async fn a_failed_migration_leaves_the_old_version_serving(on: Arc<Installation>) {
    on.apply("migrating", small(&image("users"), &json!({}))).await;
    on.ready("migrating").await;
    // The migrations of another service do not match this schema.
    on.apply("migrating", small(&image("inventory"), &json!({}))).await;
    let text = on.unready("migrating", "MigrationFailed").await;
    assert!(text.contains("0001_") && text.contains(".sql"), "the message names the file: {text}");
    let object = on.get("migrating").await;
    assert!(is(&object, "Stalled", "True", "MigrationFailed"));
    assert_eq!(object.status.expect("a status").image, Some(image("users")), "the old version");
    assert_eq!(on.request("migrating", "/users").await.expect("a response"), "[]");

    // Scaling still works.
    let mut spec = small(&image("inventory"), &json!({}));
    spec["scaling"] = json!({ "min": 2, "max": 2 });
    on.apply("migrating", spec).await;
    on.wait("migrating", "two pods", |object| object.status.as_ref().is_some_and(|status| status.ready_replicas == 2))
        .await;
    on.apply("migrating", small(&image("users"), &json!({}))).await;
    on.ready("migrating").await;
}

pub async fn an_older_image_works_on_a_newer_schema(on: Arc<Installation>) {
    let mut spec = small(&image("users"), &json!({}));
    on.apply("older-image", spec.clone()).await;
    on.ready("older-image").await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (9999, 'of a newer image', true, '', 0)";
    on.psql("older-image", newer).await.expect("a newer schema");
    // Changing the environment starts a rollout with a migration.
    spec["env"] = json!([{ "name": "LOG_LEVEL", "value": "debug" }]);
    on.apply("older-image", spec).await;
    let object = on.ready("older-image").await;
    assert_eq!(object.status.expect("a status").database.expect("a database").schema_version, Some(9999));
}

pub async fn a_missing_admin_secret_is_waited_for(on: Arc<Installation>) {
    on.apply("serverless", small(&image("users"), &json!({ "server": "later" }))).await;
    let text = on.unready("serverless", "ServerSecretMissing").await;
    assert!(text.contains("Secret later"), "{text}");
    on.admin_secret("later", "postgres", "test").await;
    on.ready("serverless").await;
}

pub async fn an_exceeded_quota_is_reported(on: Arc<Installation>) {
    let quota = json!({ "metadata": { "name": "small" }, "spec": { "hard": { "pods": "1" } } });
    on.create::<ResourceQuota>(quota).await;
    on.apply("crowded", json!({ "image": image("users"), "scaling": { "min": 1, "max": 1 } })).await;
    let text = on.unready("crowded", "QuotaExceeded").await;
    assert!(text.contains("exceeded quota: small"), "{text}");
    assert!(on.api::<Deployment>().get("crowded").await.is_ok());
    on.api::<ResourceQuota>().delete("small", &DeleteParams::default()).await.expect("deleting succeeds");
    on.delete("crowded").await;
}

//! Changes of the bundled Postgres.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use test_support::cluster::{SOON, eventually};

use crate::{
    command::run,
    data,
    release::{Release, SERVICES},
    tool::is_ready,
};

const POD: &str = "hedgerow-postgres-0";

/// The image does not exist. Nobody deletes a pod by hand.
pub async fn a_rollback_replaces_a_postgres_that_cannot_start(on: Arc<Release>) {
    let user = data::write(&on).await;
    let pods: Api<Pod> = on.api();
    let image = async || pods.get_opt(POD).await.ok()??.spec?.containers.first()?.image.clone();
    let before = image().await;
    let missing = "localhost/hedgerow/nothing:1";
    on.start_upgrade(&[&format!("postgres.bundled.image={missing:?}")]).await.expect("an upgrade");
    eventually("the pod has the image that does not exist", SOON, async || image().await.as_deref() == Some(missing))
        .await;
    run("helm", &["rollback", "hedgerow", "--namespace", &on.name, "--wait", "--timeout", "3m"])
        .await
        .expect("a rollback");
    assert_eq!(image().await, before);
    assert!(pods.get(POD).await.is_ok_and(|pod| is_ready(&pod)));
    for name in SERVICES {
        on.ready(name).await;
    }
    data::check(&on, &user).await;
}

pub async fn another_volume_size_is_refused_by_its_name(on: Arc<Release>) {
    on.start_upgrade(&[r#"postgres.bundled.storage.size="8192Mi""#]).await.expect("it is the same size");
    let error = on.start_upgrade(&[r#"postgres.bundled.storage.size="9Gi""#]).await.expect_err("it is refused");
    println!("{}", error.trim());
    for part in
        ["postgres.bundled.storage.size cannot be changed from 8Gi to 9Gi", "patch pvc data-hedgerow-postgres-0"]
    {
        assert!(error.contains(part), "{error}");
    }
    // The steps of the message, with the same size: the volume of this release may not be expandable.
    let pod = async || on.running().await.get(POD).cloned();
    let before = pod().await;
    on.kubectl(&["delete", "statefulset", "hedgerow-postgres", "--cascade=orphan"]).await.expect("it is deleted");
    on.upgrade(&[r#"postgres.bundled.storage.size="9Gi""#]).await.expect("an upgrade");
    assert_eq!(pod().await, before, "the pod stays");
    on.kubectl(&["delete", "statefulset", "hedgerow-postgres", "--cascade=orphan"]).await.expect("it is deleted");
    on.upgrade(&[]).await.expect("an upgrade");
}

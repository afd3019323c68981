//! Changes under load: no request may fail.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{DeleteParams, EvictParams},
    runtime::wait::await_condition,
};
use serde_json::json;
use test_support::cluster::{SOON, eventually, image, is, message, within};

use crate::{
    release::{Release, SERVICES, next, next_tag},
    tool::{Load, Summary, is_ready, names},
};

/// Requests per second, over both services.
const RATE: u32 = 240;

/// Asserts that no request failed, and that the load kept its rate.
pub fn none_failed(what: &str, summary: &Summary, rate: u32) {
    println!("{what}: {summary:?}");
    assert_eq!(summary.failed, 0, "{what}: {summary:?}");
    assert!(summary.rate >= f64::from(rate) * 0.8, "{what}: the load was too slow: {summary:?}");
}

/// Upgrades the whole release (operator, CRD and services) to another version, and rolls it back. Each version reports
/// its revision, and the pods of each respond to the load.
pub async fn an_upgrade_and_its_rollback_fail_no_request(on: Arc<Release>) {
    let load = Load::start(&on, RATE).await;
    let before = responding(&on).await;
    on.upgrade(&[&format!("image.tag={}", json!(next_tag()))]).await.expect("an upgrade");
    for name in SERVICES {
        on.runs(name, &next(name)).await;
    }
    let after = responding(&on).await;
    assert_ne!(before, after, "the images with the tag {} need another HEDGEROW_REVISION", next_tag());
    none_failed("upgrade", &load.stop().await, RATE);

    let load = Load::start(&on, RATE).await;
    crate::command::run("helm", &["rollback", "hedgerow", "--namespace", &on.name, "--wait", "--timeout", "4m"])
        .await
        .expect("a rollback");
    for name in SERVICES {
        on.runs(name, &image(name)).await;
    }
    assert_eq!(responding(&on).await, before, "the version before is back");
    none_failed("rollback", &load.stop().await, RATE);
}

/// The revision of all pods that the load reaches, once each of them has responded.
async fn responding(on: &Release) -> String {
    let mut revisions = BTreeSet::new();
    for name in ["users", "inventory"] {
        for pod in names(&on.pods(name).await) {
            eventually("the pod responds", SOON, async || requests(&on.metrics(&pod).await) >= 1.0).await;
            revisions.extend(revision(&on.metrics(&pod).await));
        }
    }
    println!("revisions that respond: {revisions:?}");
    let mut revisions = revisions.into_iter();
    let (Some(revision), None) = (revisions.next(), revisions.next()) else {
        panic!("not all pods report the same one")
    };
    revision
}

/// The requests that a pod has handled.
fn requests(metrics: &str) -> f64 {
    let handled = metrics.lines().filter(|line| line.starts_with("http_requests_total{"));
    handled.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// The revision that a pod reports.
fn revision(metrics: &str) -> Option<String> {
    let line = metrics.lines().find(|line| line.starts_with("build_info{"))?;
    Some(line.split_once("revision=\"")?.1.split_once('"')?.0.to_owned())
}

pub async fn evictions_and_deletions_fail_no_request(on: Arc<Release>) {
    on.upgrade_to(2, &[]).await;
    let load = Load::start(&on, RATE).await;
    for name in ["users", "inventory"] {
        evict_all(&on, name).await;
        delete_all(&on, name).await;
    }
    none_failed("evictions and deletions", &load.stop().await, RATE);
    on.upgrade(&[]).await.expect("an upgrade");
}

/// Evicts both pods of a service. Its disruption budget allows one eviction at a time.
pub async fn evict_all(on: &Release, name: &str) {
    // A pod that is not ready can always be evicted.
    eventually("two pods are ready", SOON, async || {
        let pods = on.pods(name).await;
        pods.len() == 2 && pods.iter().all(is_ready)
    })
    .await;
    let before = names(&on.pods(name).await);
    let [one, other] = &before[..] else { panic!("{name} does not have two pods: {before:?}") };
    let (pods, parameters) = (without_retries(on).await, EvictParams::default());
    let (first, second) = tokio::join!(pods.evict(one, &parameters), pods.evict(other, &parameters));
    let remaining = if first.is_ok() { other } else { one };
    match (first, second) {
        (Ok(_), Err(kube::Error::Api(rejection))) | (Err(kube::Error::Api(rejection)), Ok(_))
            if rejection.code == 429 =>
        {
            println!("{name}: {}", rejection.message);
        }
        unexpected => {
            let state = on.kubectl(&["get", "pods,pdb", "--output=wide"]).await;
            panic!("one of two evictions must be rejected: {unexpected:?}\n{}", state.unwrap_or_default())
        }
    }
    eventually("the other pod can be evicted", SOON, async || pods.evict(remaining, &parameters).await.is_ok()).await;
    replaced(on, name, &before).await;
}

/// Deletes the pods of a service, one after the other.
pub async fn delete_all(on: &Release, name: &str) {
    let pods: Api<Pod> = on.api();
    for pod in names(&on.pods(name).await) {
        pods.delete(&pod, &DeleteParams::default()).await.expect("the pod is deleted");
        replaced(on, name, &[pod]).await;
    }
}

/// A client for pods that does not retry rejected requests.
async fn without_retries(on: &Release) -> Api<Pod> {
    let mut config = Config::infer().await.expect("a kube context");
    config.default_retry = false;
    Api::namespaced(Client::try_from(config).expect("a client"), &on.name)
}

/// Waits until there are two other pods, which are ready, and those before are gone.
async fn replaced(on: &Release, name: &str, before: &[String]) {
    let before: BTreeSet<_> = before.iter().collect();
    eventually("the new pods are ready", SOON, async || {
        let pods = on.pods(name).await;
        pods.len() == 2 && pods.iter().all(|pod| is_ready(pod) && !before.contains(&pod.name_any()))
    })
    .await;
    for pod in before {
        let gone = |pod: Option<&Pod>| pod.is_none();
        within("the old pod is gone", await_condition(on.api::<Pod>(), pod, gone)).await.expect("the watch succeeds");
    }
    on.ready(name).await;
}

/// The image is that of another service, whose migrations conflict with this schema.
pub async fn a_failed_migration_leaves_the_old_version_serving(on: Arc<Release>) {
    on.upgrade_to(2, &[]).await;
    let load = Load::start(&on, RATE).await;
    let before = names(&on.pods("users").await);
    let wrong = format!("services.users.image={}", json!(next("inventory")));
    let error = on.try_upgrade_to(2, &[&wrong]).await.expect_err("an upgrade that fails");
    println!("helm upgrade: {}", error.trim());
    let object = on.wait("users", "stalled", |object| is(object, "Stalled", "True", "MigrationFailed")).await;
    println!("users: {}", message(&object, "Ready"));
    assert!(
        message(&object, "Ready").contains(".sql"),
        "the message names no migration file: {}",
        message(&object, "Ready")
    );
    assert_eq!(names(&on.pods("users").await), before, "the old pods are still there");
    none_failed("failed migration", &load.stop().await, RATE);

    let load = Load::start(&on, RATE).await;
    on.upgrade_to(2, &[&format!("services.users.image={}", json!(next("users")))]).await;
    on.runs("users", &next("users")).await;
    on.upgrade(&[]).await.expect("the chart's own image again");
    on.runs("users", &image("users")).await;
    none_failed("fixed image", &load.stop().await, RATE);
}

pub async fn an_upgrade_without_changes_restarts_nothing(on: Arc<Release>) {
    on.upgrade_to(2, &[]).await;
    let before = on.running().await;
    on.upgrade_to(2, &[]).await;
    for name in SERVICES {
        on.ready(name).await;
    }
    assert_eq!(on.running().await, before);
    println!("{} pods, none restarted", before.len());
    on.upgrade(&[]).await.expect("an upgrade");
}

/// The services change although the spec of no service does: the operator gets another configuration.
pub async fn an_upgrade_of_the_operator_waits_for_the_services(on: Arc<Release>) {
    on.upgrade(&[r#"image.pullSecrets=["absent"]"#]).await.expect("an upgrade");
    let deployments: Api<Deployment> = on.api();
    for name in SERVICES {
        let deployment = deployments.get(name).await.expect("a Deployment");
        let pod = deployment.spec.and_then(|spec| spec.template.spec).expect("a pod");
        assert_eq!(pod.image_pull_secrets.expect("a pull secret")[0].name, "absent", "{name}");
        let status = deployment.status.expect("a status");
        assert_eq!(status.observed_generation, deployment.metadata.generation, "{name}");
        assert_eq!((status.updated_replicas, status.available_replicas), (status.replicas, status.replicas), "{name}");
    }
    on.upgrade(&[]).await.expect("an upgrade");
}

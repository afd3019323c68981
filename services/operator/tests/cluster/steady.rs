//! Settled objects cause no requests.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::Microservice;
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::ListParams};
use serde_json::json;
use test_support::cluster::{SOON, eventually, image, is};
use tokio::time;

use crate::installation::Installation;

/// Long enough for several reconciles of every object.
const WATCHED: Duration = Duration::from_mins(1);

/// The requests that are expected.
const EXPECTED: [&str; 3] = [
    // Renewed by the leader and read by the others.
    r#"resource="leases""#,
    // The API server ends each watch after some minutes.
    r#"verb="watch""#,
    // Discovery, for a kind that the cluster does not have yet.
    r#"resource="other",verb="list""#,
];

pub async fn settled_objects_cause_no_requests_except_the_lease(on: Arc<Installation>) {
    let spec = json!({ "image": image("users"), "database": {}, "scaling": { "min": 1, "max": 1 } });
    on.apply("steady", spec).await;
    on.ready("steady").await;
    let objects = on.api::<Microservice>().list(&ListParams::default()).await.expect("objects");
    let names: Vec<_> = objects.iter().map(ResourceExt::name_any).collect();
    for name in &names {
        let object = on.wait(name, "settled", |object| is(object, "Reconciling", "False", "Settled")).await;
        // The operator keeps retrying one that is stalled.
        if !is(&object, "Ready", "True", "Ready") {
            on.delete(name).await;
        }
    }
    // The objects left say how the connection limits of all add up, once they have verified their databases again.
    let deleted = reconciles(&on).await;
    let again = (2 * names.len()) as u64;
    eventually("each object was reconciled again", SOON, async || reconciles(&on).await >= deleted + again).await;
    // A reconcile that has written a status may still send its event.
    eventually("no reconcile is running", SOON, async || is_idle(&on).await).await;
    let before = requests(&on).await;
    // Waiting is the only way to observe that nothing happens.
    time::sleep(WATCHED).await;
    let after = requests(&on).await;
    let sent: Vec<_> = after.iter().filter(|(what, count)| before.get(*what).unwrap_or(&0.0) < count).collect();
    println!("{} objects, requests in {WATCHED:?}: {sent:?}", names.len());
    assert!(sent.iter().any(|(what, _)| what.contains("leases")), "the Lease is renewed");
    let unexpected: Vec<_> =
        sent.iter().filter(|(what, _)| !EXPECTED.iter().any(|expected| what.contains(expected))).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
}

/// How many reconciles have ended.
async fn reconciles(on: &Installation) -> u64 {
    let mut all = 0;
    for (_, metrics) in metrics(on).await {
        let count = metrics.lines().find_map(|line| line.strip_prefix("operator_reconciles_total "));
        all += count.expect("the metric").parse::<u64>().expect("a number");
    }
    all
}

/// The operator's requests, by pod, resource and verb.
async fn requests(on: &Installation) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for (pod, metrics) in metrics(on).await {
        for line in metrics.lines().filter(|line| line.starts_with("operator_api_requests_total")) {
            let (what, count) = line.rsplit_once(' ').expect("a value");
            *all.entry(format!("{pod} {what}")).or_default() += count.parse::<f64>().expect("a number");
        }
    }
    all
}

/// Whether no reconcile is running.
async fn is_idle(on: &Installation) -> bool {
    metrics(on).await.iter().all(|(_, metrics)| {
        let count = |name| metrics.lines().find_map(|line| line.strip_prefix(name)).expect("a count");
        count("operator_reconciles_total ") == count("operator_reconcile_duration_seconds_count ")
    })
}

/// The metrics of each operator pod, by name.
async fn metrics(on: &Installation) -> Vec<(String, String)> {
    let selector = ListParams::default().labels("app.kubernetes.io/name=hedgerow-operator");
    let mut all = Vec::new();
    for pod in on.api::<Pod>().list(&selector).await.expect("pods") {
        let name = pod.name_any();
        let metrics = on.metrics(&name).await;
        all.push((name, metrics));
    }
    all
}

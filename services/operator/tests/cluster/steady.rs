//! Settled objects cause no writes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::Microservice;
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::ListParams};
use test_support::cluster::{SOON, eventually, is};
use tokio::time;

use crate::installation::Installation;

/// Long enough for several reconciles of every object.
const WATCHED: Duration = Duration::from_mins(1);

pub async fn settled_objects_cause_no_writes_except_the_lease(on: Arc<Installation>) {
    let objects = on.api::<Microservice>().list(&ListParams::default()).await.expect("objects");
    let names: Vec<_> = objects.iter().map(ResourceExt::name_any).collect();
    for name in &names {
        on.wait(name, "settled", |object| is(object, "Reconciling", "False", "Settled")).await;
    }
    // A reconcile that has written a status may still send its event.
    eventually("no reconcile is running", SOON, async || is_idle(&on).await).await;
    let before = writes(&on).await;
    // Waiting is the only way to observe that nothing happens.
    time::sleep(WATCHED).await;
    let after = writes(&on).await;
    let written: Vec<_> = after.iter().filter(|(what, count)| before.get(*what).unwrap_or(&0.0) < count).collect();
    println!("{} objects, writes in {WATCHED:?}: {written:?}", names.len());
    assert!(!written.is_empty(), "the Lease is renewed");
    assert!(written.iter().all(|(what, _)| what.contains("leases")), "{written:?}");
}

/// The operator's write requests, by pod, method and kind.
async fn writes(on: &Installation) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for (pod, metrics) in metrics(on).await {
        for line in metrics.lines().filter(|line| line.starts_with("operator_api_requests_total")) {
            let (what, count) = line.rsplit_once(' ').expect("a value");
            if !what.contains(r#"method="GET""#) {
                *all.entry(format!("{pod} {what}")).or_default() += count.parse::<f64>().expect("a number");
            }
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

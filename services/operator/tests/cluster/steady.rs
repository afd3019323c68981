//! Nothing to do, nothing done.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::ListParams};
use operator::api::Microservice;
use test_harness::cluster::is;
use tokio::time;

use crate::installation::Installation;

/// Some looks of every object long.
const WATCHED: Duration = Duration::from_mins(1);

pub async fn a_steady_state_makes_no_write_but_the_lease(on: Arc<Installation>) {
    let objects = on.api::<Microservice>().list(&ListParams::default()).await.expect("objects");
    let names: Vec<_> = objects.iter().map(ResourceExt::name_any).collect();
    for name in &names {
        on.wait(name, "settled", |object| is(object, "Reconciling", "False", "Settled")).await;
    }
    let before = writes(&on).await;
    // The one test that waits: that nothing happens shows in no other way.
    time::sleep(WATCHED).await;
    let after = writes(&on).await;
    let written: Vec<_> = after.iter().filter(|(what, count)| before.get(*what).unwrap_or(&0.0) < count).collect();
    println!("{} objects, writes in {WATCHED:?}: {written:?}", names.len());
    assert!(!written.is_empty(), "the Lease is renewed");
    assert!(written.iter().all(|(what, _)| what.contains("leases")), "{written:?}");
}

/// The operator's requests but for reads, by method and kind.
async fn writes(on: &Installation) -> BTreeMap<String, f64> {
    let selector = ListParams::default().labels("app.kubernetes.io/name=hedgerow-operator");
    let mut all = BTreeMap::new();
    for pod in on.api::<Pod>().list(&selector).await.expect("pods") {
        let metrics = on.metrics(&pod.name_any()).await;
        for line in metrics.lines().filter(|line| line.starts_with("operator_api_requests_total")) {
            let (what, count) = line.rsplit_once(' ').expect("a value");
            if !what.contains(r#"method="GET""#) {
                *all.entry(format!("{} {what}", pod.name_any())).or_default() +=
                    count.parse::<f64>().expect("a number");
            }
        }
    }
    all
}

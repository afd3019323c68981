//! The distribution of requests over pods.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    release::Release,
    tool::{Tool, names, summary},
};

/// A Service distributes connections at random. The probability that one of two pods gets fewer than 13 of 64 is about
/// one in ten million.
pub async fn two_replicas_share_the_load(on: Arc<Release>) {
    on.upgrade_to(2, &[]).await;
    let before = counts(&on).await;
    let arguments = [
        "load",
        "--duration",
        "10s",
        "--connections",
        "64",
        "--rate",
        "400",
        "--get",
        "http://inventory:8080/inventory/e2e",
    ];
    let (succeeded, log) = Tool::start(&on, &arguments, true).await.end().await;
    let summary = summary(&log);
    println!("{summary:?}");
    assert!(succeeded && summary.failed == 0, "{summary:?}");
    let after = counts(&on).await;
    let shares: Vec<f64> = after.iter().map(|(pod, count)| count - before.get(pod).unwrap_or(&0.0)).collect();
    println!("requests by pod: {shares:?}");
    assert_eq!(shares.len(), 2);
    assert!(shares.iter().all(|share| *share > shares.iter().sum::<f64>() * 0.2), "{shares:?}");
    on.upgrade(&[]).await.expect("an upgrade");
}

/// The requests that each pod of inventory has counted.
pub async fn counts(on: &Release) -> BTreeMap<String, f64> {
    let mut counts = BTreeMap::new();
    for pod in names(&on.pods("inventory").await) {
        let metrics = on.metrics(&pod).await;
        let counted = metrics.lines().filter(|line| line.starts_with("http_requests_total{"));
        let counted = counted.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
        counts.insert(pod, counted);
    }
    counts
}

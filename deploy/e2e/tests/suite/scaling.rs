//! The autoscaler, and a service that is not in the chart.

use std::{collections::BTreeSet, fs, sync::Arc};

use test_support::cluster::{SOON, image};

use crate::{
    command::Running,
    release::Release,
    tool::{Load, names},
};

pub async fn the_autoscaler_follows_the_load(on: Arc<Release>) {
    // 10% of 50m CPU: any load exceeds it, and an idle service does not.
    let scaling = r#"services.inventory.scaling={"min":2,"max":4,"cpu":10,"scaleDownSeconds":5}"#;
    on.upgrade(&[scaling]).await.expect("an upgrade");
    let load = Load::start(&on, 300).await;
    let up = on.wait("inventory", "more than two pods", |object| replicas(object) > 2).await;
    println!("under load: {} pods", replicas(&up));
    let summary = load.stop().await;
    let begun = tokio::time::Instant::now();
    while replicas(&on.get("inventory").await) > 2 {
        assert!(begun.elapsed() < SOON * 2, "the autoscaler does not scale down after the load");
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    println!("after the load: 2 pods; {summary:?}");
    assert_eq!(summary.failed, 0, "{summary:?}");
    on.upgrade(&[]).await.expect("an upgrade");
    on.ready("inventory").await;
}

fn replicas(object: &api::Microservice) -> i32 {
    object.status.as_ref().map_or(0, |status| status.replicas)
}

/// The object has six lines of YAML.
pub async fn a_minimal_object_becomes_a_complete_service(on: Arc<Release>) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("orders.yaml");
    let yaml = format!(
        "apiVersion: hedgerow.dev/v1alpha1\nkind: Microservice\nmetadata: {{name: orders}}\nspec:\n  image: {}\n  database: {{}}\n",
        image("users")
    );
    fs::write(&file, yaml).expect("the file is written");
    on.kubectl(&["apply", "-f", &file.to_string_lossy()]).await.expect("the object is applied");
    on.ready("orders").await;
    let (_forward, url) = Running::forward(&on.name, "orders").await;
    let client = reqwest::Client::new();
    let response = client.get(format!("{url}/users")).send().await.expect("a response");
    assert_eq!(response.text().await.expect("a body"), "[]");

    let kinds = "sa,job,deploy,svc,hpa,pdb,netpol,pod";
    let selector = "--selector=app.kubernetes.io/instance=orders";
    let listed = on.kubectl(&["get", kinds, selector, "--output=name"]).await.expect("its children");
    let found: BTreeSet<_> = listed.lines().filter_map(|name| name.split(['.', '/']).next()).collect();
    println!("children of orders: {found:?}");
    let expected = [
        "deployment",
        "horizontalpodautoscaler",
        "job",
        "networkpolicy",
        "pod",
        "poddisruptionbudget",
        "service",
        "serviceaccount",
    ];
    assert_eq!(found, expected.into());
    let databases = on.sql("postgres", "SELECT datname FROM pg_database WHERE datname = 'orders'").await;
    assert_eq!(databases, Ok("orders".to_owned()));
    let mut metrics = String::new();
    for pod in names(&on.pods("orders").await) {
        metrics += &on.metrics(&pod).await;
    }
    // Only the pod that handled the request has counted one.
    assert!(metrics.contains("http_requests_total"), "the request is counted");
    on.delete("orders").await;
}

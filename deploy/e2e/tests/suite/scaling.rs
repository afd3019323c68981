//! The autoscaler, and a service of one's own.

use std::{collections::BTreeSet, fs, sync::Arc};

use test_support::cluster::{SOON, image};

use crate::{
    command::Running,
    release::Release,
    tool::{Load, names},
};

pub async fn the_autoscaler_follows_the_load(on: Arc<Release>) {
    // 10 % of 50m: any load is enough, none is not.
    let scaling = r#"services.inventory.scaling={"min":2,"max":4,"cpu":10,"scaleDownSeconds":5}"#;
    on.upgrade(&[scaling]).await.expect("an upgrade");
    let load = Load::start(&on, 300).await;
    let up = on.wait("inventory", "more pods under load", |object| replicas(object) > 2).await;
    println!("under load: {} pods", replicas(&up));
    let summary = load.stop().await;
    let begun = tokio::time::Instant::now();
    while replicas(&on.get("inventory").await) > 2 {
        assert!(begun.elapsed() < SOON * 2, "it goes down when the load has gone");
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    println!("after it: 2 pods; {summary:?}");
    assert_eq!(summary.failed, 0, "{summary:?}");
    on.upgrade(&[]).await.expect("an upgrade");
    on.ready("inventory").await;
}

fn replicas(object: &api::Microservice) -> i32 {
    object.status.as_ref().map_or(0, |status| status.replicas)
}

/// From five lines of YAML.
pub async fn a_minimal_object_becomes_a_complete_service(on: Arc<Release>) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("orders.yaml");
    let yaml = format!(
        "apiVersion: hedgerow.dev/v1alpha1\nkind: Microservice\nmetadata: {{name: orders}}\nspec:\n  image: {}\n  database: {{}}\n",
        image("users")
    );
    fs::write(&file, yaml).expect("it is written");
    on.kubectl(&["apply", "-f", &file.to_string_lossy()]).await.expect("it is applied");
    on.ready("orders").await;
    let (_forward, url) = Running::forward(&on.name, "orders").await;
    let client = reqwest::Client::new();
    assert_eq!(client.get(format!("{url}/users")).send().await.expect("an answer").text().await.expect("it"), "[]");

    let kinds = "sa,job,deploy,svc,hpa,pdb,netpol,pod";
    let selector = "--selector=app.kubernetes.io/instance=orders";
    let listed = on.kubectl(&["get", kinds, selector, "--output=name"]).await.expect("its children");
    let found: BTreeSet<_> = listed.lines().filter_map(|name| name.split(['.', '/']).next()).collect();
    println!("orders has {found:?}");
    let wanted = [
        "deployment",
        "horizontalpodautoscaler",
        "job",
        "networkpolicy",
        "pod",
        "poddisruptionbudget",
        "service",
        "serviceaccount",
    ];
    assert_eq!(found, wanted.into());
    let databases = on.sql("postgres", "SELECT datname FROM pg_database WHERE datname = 'orders'").await;
    assert_eq!(databases, Ok("orders".to_owned()));
    let mut metrics = String::new();
    for pod in names(&on.pods("orders").await) {
        metrics += &on.metrics(&pod).await;
    }
    // Of the pod that has answered: no other one has had a request.
    assert!(metrics.contains("http_requests_total"), "it is observed");
    on.delete("orders").await;
}

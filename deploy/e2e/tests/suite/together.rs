//! Users and inventory together: calls between them, and reservations while pods are deleted.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::DeleteParams};
use serde_json::{Value, json};
use test_support::cluster::{SOON, eventually};

use crate::{
    command::Running,
    release::Release,
    tool::{Load, Tool, is_ready, names, summary},
};

/// Creates a user with a product on the wishlist, and returns the id.
async fn user(on: &Release, product: &str) -> String {
    let (_forward, url) = Running::forward(&on.name, "users").await;
    let email = format!("{}@wishlist.invalid", uuid::Uuid::new_v4());
    let body = json!({ "name": "Edsger", "email": email, "wishlist": [product] });
    let response = reqwest::Client::new().post(format!("{url}/users")).json(&body).send().await.expect("a response");
    assert_eq!(response.status(), 201);
    let user: Value = response.json().await.expect("a user");
    user["id"].as_str().expect("an id").to_owned()
}

/// A wishlist shows the stock from inventory, and is degraded while inventory is unavailable.
pub async fn a_wishlist_shows_the_stock_from_inventory(on: Arc<Release>) {
    set(&on, "wanted", 42).await;
    let user = user(&on, "wanted").await;
    let (_forward, url) = Running::forward(&on.name, "users").await;
    let wishlist = async || -> Value {
        let response = reqwest::get(format!("{url}/users/{user}/wishlist")).await.expect("a response");
        response.json().await.expect("a wishlist")
    };
    eventually("the stock is known", SOON, async || wishlist().await["degraded"] == false).await;
    let wishlist = wishlist().await;
    println!("{wishlist}");
    assert_eq!((&wishlist["items"][0]["product_id"], &wishlist["items"][0]["stock"]), (&json!("wanted"), &json!(42)));

    // Users still has the URL, but inventory no longer admits it.
    let denied = [
        "services.users.calls=[]",
        r#"services.users.env=[{"name":"INVENTORY_GRPC_URL","value":"http://inventory-headless:50051"}]"#,
    ];
    on.upgrade(&denied).await.expect("an upgrade");
    for pod in names(&on.pods("users").await) {
        on.api::<Pod>()
            .delete(&pod, &DeleteParams::default())
            .await
            .expect("the pod is deleted, which closes admitted connections");
    }
    on.upgrade(&denied).await.expect("users becomes ready without inventory");
    let (_forward, url) = Running::forward(&on.name, "users").await;
    let response = reqwest::get(format!("{url}/users/{user}/wishlist")).await.expect("a response");
    assert_eq!(response.status(), 200);
    let wishlist: Value = response.json().await.expect("a wishlist");
    println!("{wishlist}");
    assert_eq!((&wishlist["degraded"], &wishlist["items"][0]["stock"]), (&json!(true), &Value::Null));
    on.upgrade(&[]).await.expect("an upgrade");
    on.ready("inventory").await;
}

/// Calls are distributed over all pods of inventory, although each pod of users keeps its connections.
pub async fn calls_are_balanced_over_the_pods(on: Arc<Release>) {
    on.upgrade(&[r#"services.inventory.scaling={"min":3,"max":3}"#]).await.expect("an upgrade");
    on.ready("inventory").await;
    let url = format!("http://users:8080/users/{}/wishlist", user(&on, "wanted").await);
    let load = |duration: &'static str| Tool::start_load(&on, ["--get", &url].map(str::to_owned), duration, 200);
    // Wait until users knows all three pods.
    eventually("all pods are called", SOON, async || {
        let before = calls(&on).await;
        load("2s").await.end().await;
        calls(&on).await.iter().all(|(pod, count)| before.get(pod).is_some_and(|before| count > before))
    })
    .await;
    let before = calls(&on).await;
    let (succeeded, log) = load("10s").await.end().await;
    assert!(succeeded, "{:?}", summary(&log));
    let shares: Vec<f64> =
        calls(&on).await.iter().map(|(pod, count)| count - before.get(pod).unwrap_or(&0.0)).collect();
    let fair = shares.iter().sum::<f64>() / 3.0;
    println!("calls by pod: {shares:?}");
    assert!(shares.len() == 3 && fair > 500.0, "{shares:?}");
    assert!(
        shares.iter().all(|share| (share - fair).abs() <= fair * 0.2),
        "each pod is within 20% of its share: {shares:?}"
    );
}

/// The batched reads that each pod of inventory has handled.
async fn calls(on: &Release) -> BTreeMap<String, f64> {
    let mut calls = BTreeMap::new();
    for pod in names(&on.pods("inventory").await) {
        let metrics = on.metrics(&pod).await;
        let counted = metrics
            .lines()
            .filter(|line| line.starts_with("grpc_server_requests_total{") && line.contains("BatchGetStock"));
        calls.insert(pod, counted.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum());
    }
    calls
}

/// There are more buyers than goods, on three replicas, which are deleted one after the other without a grace period.
/// (`services/inventory/tests/faults/oversold.rs` tests a SIGKILL without warning.)
pub async fn deleted_pods_do_not_oversell_a_hot_product(on: Arc<Release>) {
    const GOODS: u64 = 3000;
    on.upgrade(&[r#"services.inventory.scaling={"min":3,"max":3}"#]).await.expect("an upgrade");
    on.ready("inventory").await;
    set(&on, "hot", GOODS).await;
    let reservation = r#"{"items":[{"product_id":"hot","quantity":1}]}"#;
    let arguments = ["--post", "http://inventory:8080/reservations", "--body", reservation].map(str::to_owned);
    let load = Load::of(Tool::start_load(&on, arguments, "10m", 200).await).await;
    let pods: Api<Pod> = on.api();
    for pod in names(&on.pods("inventory").await) {
        pods.delete(&pod, &DeleteParams::default().grace_period(0)).await.expect("the pod is deleted");
        eventually("three pods are ready", SOON, async || {
            let current = on.pods("inventory").await;
            current.len() == 3 && current.iter().all(is_ready) && !names(&current).contains(&pod)
        })
        .await;
    }
    let free = async || on.sql("inventory", "SELECT on_hand - reserved FROM stock WHERE product_id = 'hot'").await;
    eventually("everything is sold", SOON, async || free().await == Ok("0".to_owned())).await;
    let summary = load.stop().await;
    println!("{summary:?}");
    let kind = |kind: &str| summary.failures.get(kind).copied().unwrap_or_default();
    let acknowledged = summary.requests - summary.failed;
    // Requests without a response may have taken effect.
    let unknown = kind("reset") + kind("timeout");
    assert!(acknowledged <= GOODS, "{acknowledged} of {GOODS} were acknowledged");
    let as_text = |sql: &str| format!("SELECT ({sql})::text");
    let count =
        async |sql: &str| on.sql("inventory", &as_text(sql)).await.expect("a row").parse::<u64>().expect("a number");
    let held = count("SELECT coalesce(sum(quantity), 0) FROM expiry WHERE product_id = 'hot'").await;
    let ledger = count("SELECT sum(reserved_delta) FROM movement WHERE product_id = 'hot'").await;
    println!("{GOODS} goods: {acknowledged} acknowledged, {unknown} unknown; {held} held, {ledger} in the ledger");
    assert_eq!((held, ledger), (GOODS, GOODS));
    assert!(held >= acknowledged);
    // Nothing else is held. (A 503 for an unknown outcome counts like any other status here, but since the database
    // stays available, a pod that can respond also knows the outcome.)
    assert!(held <= acknowledged + unknown, "{held} are held, with {acknowledged} acknowledged and {unknown} unknown");
    on.upgrade(&[]).await.expect("an upgrade");
    on.ready("inventory").await;
}

/// Sets the stock of a product.
pub async fn set(on: &Release, product: &str, stock: u64) {
    let (_forward, url) = Running::forward(&on.name, "inventory").await;
    let request = reqwest::Client::new().post(format!("{url}/inventory/{product}")).json(&json!({ "stock": stock }));
    assert_eq!(request.send().await.expect("a response").status(), 201);
}

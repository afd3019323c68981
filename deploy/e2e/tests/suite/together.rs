//! Users and inventory, and what must hold between them whatever dies.

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

/// Makes a user who wants a product, and returns the id.
async fn user(on: &Release, product: &str) -> String {
    let (_forward, url) = Running::forward(&on.name, "users").await;
    let email = format!("{}@wishlist.invalid", uuid::Uuid::new_v4());
    let body = json!({ "name": "Edsger", "email": email, "wishlist": [product] });
    let answer = reqwest::Client::new().post(format!("{url}/users")).json(&body).send().await.expect("an answer");
    assert_eq!(answer.status(), 201);
    let user: Value = answer.json().await.expect("a user");
    user["id"].as_str().expect("an id").to_owned()
}

/// A user's wishlist has the stock that inventory has, and says so when inventory is outage.
pub async fn a_wishlist_shows_the_stock_from_inventory(on: Arc<Release>) {
    set(&on, "wanted", 42).await;
    let user = user(&on, "wanted").await;
    let (_forward, url) = Running::forward(&on.name, "users").await;
    let ask = async || -> Value {
        let answer = reqwest::get(format!("{url}/users/{user}/wishlist")).await.expect("an answer");
        answer.json().await.expect("a wishlist")
    };
    eventually("the stock is there", SOON, async || ask().await["degraded"] == false).await;
    let wishlist = ask().await;
    println!("{wishlist}");
    assert_eq!((&wishlist["items"][0]["product_id"], &wishlist["items"][0]["stock"]), (&json!("wanted"), &json!(42)));

    // Users still has the URL, but inventory no longer admits it.
    let denied = [
        "services.users.calls=[]",
        r#"services.users.env=[{"name":"INVENTORY_GRPC_URL","value":"http://inventory-headless:50051"}]"#,
    ];
    on.upgrade(&denied).await.expect("an upgrade");
    for pod in names(&on.pods("users").await) {
        on.api::<Pod>().delete(&pod, &DeleteParams::default()).await.expect("connections that were admitted end");
    }
    on.upgrade(&denied).await.expect("users are ready without inventory");
    let (_forward, url) = Running::forward(&on.name, "users").await;
    let answer = reqwest::get(format!("{url}/users/{user}/wishlist")).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let wishlist: Value = answer.json().await.expect("a wishlist");
    println!("{wishlist}");
    assert_eq!((&wishlist["degraded"], &wishlist["items"][0]["stock"]), (&json!(true), &Value::Null));
    on.upgrade(&[]).await.expect("an upgrade");
    on.ready("inventory").await;
}

/// Calls go round all pods of inventory, though each user's pod keeps its connections.
pub async fn calls_are_balanced_over_the_pods(on: Arc<Release>) {
    on.upgrade(&[r#"services.inventory.scaling={"min":3,"max":3}"#]).await.expect("an upgrade");
    on.ready("inventory").await;
    let url = format!("http://users:8080/users/{}/wishlist", user(&on, "wanted").await);
    let load = |duration: &'static str| Tool::start_load(&on, ["--get", &url].map(str::to_owned), duration, 200);
    // Until users know of all three.
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
    assert!(shares.iter().all(|share| (share - fair).abs() <= fair * 0.2), "within 20 % of its share: {shares:?}");
}

/// The batched reads that each pod of inventory has answered.
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

/// More buyers than goods, on three replicas that are deleted one after the other without a period of grace. (What a
/// SIGKILL out of nothing does is tested where a test can send one: `services/inventory/tests/faults/oversold.rs`.)
pub async fn deleted_pods_do_not_oversell_a_hot_product(on: Arc<Release>) {
    const GOODS: u64 = 3000;
    on.upgrade(&[r#"services.inventory.scaling={"min":3,"max":3}"#]).await.expect("an upgrade");
    on.ready("inventory").await;
    set(&on, "hot", GOODS).await;
    let hold = r#"{"items":[{"product_id":"hot","quantity":1}]}"#;
    let arguments = ["--post", "http://inventory:8080/reservations", "--body", hold].map(str::to_owned);
    let load = Load::of(Tool::start_load(&on, arguments, "10m", 200).await).await;
    let pods: Api<Pod> = on.api();
    for pod in names(&on.pods("inventory").await) {
        pods.delete(&pod, &DeleteParams::default().grace_period(0)).await.expect("it is deleted");
        eventually("three pods are ready", SOON, async || {
            let there = on.pods("inventory").await;
            there.len() == 3 && there.iter().all(is_ready) && !names(&there).contains(&pod)
        })
        .await;
    }
    let free = async || on.sql("inventory", "SELECT on_hand - reserved FROM stock WHERE product_id = 'hot'").await;
    eventually("all is sold", SOON, async || free().await == Ok("0".to_owned())).await;
    let summary = load.stop().await;
    println!("{summary:?}");
    let kind = |kind: &str| summary.failures.get(kind).copied().unwrap_or_default();
    let acknowledged = summary.requests - summary.failed;
    // What was cut off or not answered may have been done.
    let unknown = kind("reset") + kind("timeout");
    assert!(acknowledged <= GOODS, "{acknowledged} were promised");
    let holds = |sql: &str| format!("SELECT ({sql})::text");
    let count = async |sql: &str| on.sql("inventory", &holds(sql)).await.expect("a number").parse::<u64>().expect("it");
    let lines =
        count("SELECT coalesce(sum(quantity), 0) FROM reservation_line WHERE product_id = 'hot' AND live").await;
    let ledger = count("SELECT sum(reserved_delta) FROM movement WHERE product_id = 'hot'").await;
    println!("{GOODS} goods: {acknowledged} acknowledged, {unknown} unknown; {lines} held, {ledger} in the ledger");
    assert_eq!((lines, ledger), (GOODS, GOODS));
    assert!(lines >= acknowledged);
    // Nor is anything held that nobody can have asked for. (A 503 that says that the outcome is unknown is not told from
    // other statuses; but nothing happens to the database here, so that a pod that can answer can find it out.)
    assert!(lines <= acknowledged + unknown, "{lines} are held, of {acknowledged} acknowledged and {unknown} unknown");
    on.upgrade(&[]).await.expect("an upgrade");
    on.ready("inventory").await;
}

pub async fn set(on: &Release, product: &str, stock: u64) {
    let (_forward, url) = Running::forward(&on.name, "inventory").await;
    let request = reqwest::Client::new().post(format!("{url}/inventory/{product}")).json(&json!({ "stock": stock }));
    assert_eq!(request.send().await.expect("an answer").status(), 201);
}

//! The inventory API over a real socket and a real database, one module a theme.

mod adjust;
#[path = "../support/audit.rs"]
mod audit;
mod bodies;
mod concurrent;
mod documents;
mod expiry;
mod grpc;
mod idempotency;
mod ledger;
mod list;
mod observed;
mod parameters;
mod product_ids;
mod queue;
mod reservation_bodies;
mod reservations;
mod set;
mod wire;

use serde_json::{Value, json};
use sqlx::PgPool;
use test_harness::app::{Answer, App};

/// 2^53 − 1: the most that can be on hand.
const MOST: i64 = 9_007_199_254_740_991;

/// Starts the service on the test's database.
async fn start(pool: &PgPool) -> App {
    App::start(&inventory::SERVICE, &pool.connect_options()).await
}

/// Sets what is on hand of a product.
async fn set(app: &App, product: &str, stock: i64) -> Answer {
    app.post(&format!("/inventory/{product}"), &json!({"stock": stock})).await
}

/// Changes what is on hand of a product.
async fn adjust(app: &App, product: &str, delta: i64) -> Answer {
    app.patch(&format!("/inventory/{product}"), &json!({"delta": delta})).await
}

/// What is on hand of a product, none of it reserved.
async fn stock(app: &App, product: &str) -> i64 {
    let body = app.get(&format!("/inventory/{product}")).await.json(200);
    assert_eq!((&body["on_hand"], &body["reserved"]), (&body["stock"], &json!(0)));
    body["stock"].as_i64().expect("a whole number")
}

/// A product's ledger, oldest first.
async fn ledger(app: &App, product: &str) -> Vec<Value> {
    let mut movements = app.walk(&format!("/inventory/{product}/movements?limit=200")).await.concat();
    movements.reverse();
    movements
}

/// How many products are listed, and how many movements there are.
async fn counts(pool: &PgPool) -> (i64, i64) {
    let products = sqlx::query_scalar("SELECT count(*) FROM stock WHERE version > 0").fetch_one(pool).await;
    let movements = sqlx::query_scalar("SELECT count(*) FROM movement").fetch_one(pool).await;
    (products.expect("a count"), movements.expect("a count"))
}

/// What of a product can be had, is on hand, and is reserved.
async fn counters(app: &App, product: &str) -> (i64, i64, i64) {
    let body = app.get(&format!("/inventory/{product}")).await.json(200);
    let [stock, on_hand, reserved] =
        ["stock", "on_hand", "reserved"].map(|field| body[field].as_i64().expect("a number"));
    assert_eq!(stock, on_hand - reserved);
    (stock, on_hand, reserved)
}

/// Checks that counters, ledger, reservations and their lines agree.
async fn audit(pool: &PgPool) {
    let faults = audit::faults(&mut pool.acquire().await.expect("a connection")).await;
    assert!(faults.is_empty(), "{faults:#?}");
}

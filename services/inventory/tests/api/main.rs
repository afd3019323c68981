//! The inventory API over a real socket and a real database, one module for each topic.

mod access;
mod adjust;
mod batch_weight;
mod bodies;
mod busy;
mod concurrent;
mod documents;
mod expiry;
mod failures;
mod grpc;
mod held_up;
mod idempotency;
mod ledger;
mod ledger_retention;
mod list;
mod locks;
mod observed;
mod parameters;
mod plans;
mod preconditions;
mod product_ids;
mod queue;
mod reservation_bodies;
mod reservations;
mod retention;
mod set;
mod sweeper;
mod unread;
mod wire;

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use test_support::{
    app::{App, Response},
    inventory::inconsistencies,
    process::{TIMEOUT, eventually},
};

/// 2^53 − 1: the maximum quantity on hand.
const MOST: i64 = 9_007_199_254_740_991;

/// Starts the service on the test's database.
async fn start(pool: &PgPool) -> App {
    App::start(&inventory::SERVICE, &pool.connect_options()).await
}

/// Starts two instances, for [`no_deadlock`]: Postgres looks for deadlocks before their waits for locks end.
async fn start_two(pool: &PgPool) -> [App; 2] {
    let name: String = sqlx::query_scalar("SELECT current_database()").fetch_one(pool).await.expect("a name");
    let early = format!("ALTER DATABASE \"{name}\" SET deadlock_timeout = '20ms'");
    sqlx::raw_sql(AssertSqlSafe(early)).execute(pool).await.expect("set");
    [start(pool).await, start(pool).await]
}

/// Sets the quantity on hand of a product.
async fn set(app: &App, product: &str, stock: i64) -> Response {
    app.post(&format!("/inventory/{product}"), &json!({"stock": stock})).await
}

/// Adjusts the quantity on hand of a product.
async fn adjust(app: &App, product: &str, delta: i64) -> Response {
    app.patch(&format!("/inventory/{product}"), &json!({"delta": delta})).await
}

/// The quantity on hand of a product of which nothing is reserved.
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

/// The number of listed products and the number of movements.
async fn counts(pool: &PgPool) -> (i64, i64) {
    let products = sqlx::query_scalar("SELECT count(*) FROM stock WHERE version > 0").fetch_one(pool).await;
    let movements = sqlx::query_scalar("SELECT count(*) FROM movement").fetch_one(pool).await;
    (products.expect("a count"), movements.expect("a count"))
}

/// The available, on-hand and reserved quantities of a product.
async fn counters(app: &App, product: &str) -> (i64, i64, i64) {
    let body = app.get(&format!("/inventory/{product}")).await.json(200);
    let [stock, on_hand, reserved] =
        ["stock", "on_hand", "reserved"].map(|field| body[field].as_i64().expect("a number"));
    assert_eq!(stock, on_hand - reserved);
    (stock, on_hand, reserved)
}

/// Asserts that counters, ledger, reservations and their lines agree.
async fn audit(pool: &PgPool) {
    let found = inconsistencies(&mut pool.acquire().await.expect("a connection")).await;
    assert!(found.is_empty(), "{found:#?}");
}

/// Stops the instances of [`start_two`] and asserts that none of their transactions was in a deadlock. Deadlocks are
/// retried, so responses do not show them. Postgres has counted a connection's deadlocks once the connection is gone.
async fn no_deadlock(pool: &PgPool, apps: [App; 2]) {
    drop(apps);
    let left = "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'inventory'";
    eventually("all connections are closed", TIMEOUT, async || {
        let left: i64 = sqlx::query_scalar(left).fetch_one(pool).await.expect("a count");
        (left == 0).then_some(())
    })
    .await;
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    let deadlocks: i64 = sqlx::query_scalar(deadlocks).fetch_one(pool).await.expect("a count");
    assert_eq!(deadlocks, 0);
}

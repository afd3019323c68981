//! Holds requests up, and waits until they are.

use std::time::Duration;

use sqlx::{PgPool, Postgres, Transaction};
use test_support::{
    app::App,
    process::{TIMEOUT, eventually},
};

/// Locks a product, which holds up every batch that changes it.
pub async fn hold_up(pool: &PgPool, product: &str) -> Transaction<'static, Postgres> {
    let mut lock = pool.begin().await.expect("a transaction");
    let locked =
        sqlx::query("SELECT FROM stock WHERE product_id = $1 FOR UPDATE").bind(product).execute(&mut *lock).await;
    assert_eq!(locked.expect("locked").rows_affected(), 1);
    lock
}

/// How long the writer waits for the lock of a product. After that it does something else.
pub const LOCK_TIMEOUT: Duration = Duration::from_millis(150);

/// Holds up every transaction that changes the stock of this product, whose name starts with "gate", when it writes the
/// ledger. It waits for as long as it has to, unlike for the lock of a product.
pub async fn close_gate(pool: &PgPool, product: &str) -> Transaction<'static, Postgres> {
    let gate = "CREATE OR REPLACE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = '1min' AS
             $$ BEGIN PERFORM pg_advisory_xact_lock_shared(hashtext(NEW.product_id)); RETURN NEW; END $$;
         CREATE OR REPLACE TRIGGER wait BEFORE INSERT ON movement FOR EACH ROW WHEN (NEW.product_id LIKE 'gate%')
             EXECUTE FUNCTION wait()";
    sqlx::raw_sql(gate).execute(pool).await.expect("a trigger");
    let mut gate = pool.begin().await.expect("a transaction");
    let close = sqlx::query("SELECT pg_advisory_xact_lock(hashtext($1))").bind(product);
    close.execute(&mut *gate).await.expect("closed");
    gate
}

/// Waits until a statement is waiting for a lock.
pub async fn waits_for_a_lock(pool: &PgPool) {
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("a statement is waiting for a lock", TIMEOUT, async || {
        let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(pool).await.expect("a count");
        (waiting > 0).then_some(())
    })
    .await;
}

/// Waits until this many requests are in flight and queued: the response to a later request shows that they are.
pub async fn in_flight(app: &App, count: usize) {
    gauge(app, "http_requests_in_flight", count).await;
    app.get("/nothing").await.problem(404);
}

/// Waits until this many gRPC calls are in flight.
pub async fn calls_in_flight(app: &App, count: usize) {
    gauge(app, "grpc_server_requests_in_flight", count).await;
}

async fn gauge(app: &App, name: &str, count: usize) {
    let line = format!("\n{name} {count}\n");
    eventually("requests are in flight", TIMEOUT, async || {
        app.admin("/metrics").await.text().contains(&line).then_some(())
    })
    .await;
}

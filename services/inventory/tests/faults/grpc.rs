//! The gRPC port through the end of the process.

use contracts::inventory::v1::{BatchGetStockRequest, inventory_client::InventoryClient};
use sqlx::{PgPool, raw_sql};
use test_support::process::{PATIENCE, Process, Signal, eventually};
use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    drain::LONG,
    service::{program, serve, url},
};

/// A connection to the gRPC port.
pub async fn connect(service: &Process) -> Channel {
    let url = format!("http://{}", service.grpc.expect("a gRPC port"));
    Channel::from_shared(url).expect("a URL").connect().await.expect("it listens")
}

fn request() -> BatchGetStockRequest {
    BatchGetStockRequest { product_ids: vec!["p".to_owned()] }
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn while_draining_it_serves_and_says_that_it_soon_does_not(pool: PgPool) {
    let service = serve(&program(&url(&pool)).variable("DRAIN_DELAY", LONG)).await;
    let mut kept = InventoryClient::new(connect(&service).await);
    kept.batch_get_stock(request()).await.expect("an answer");
    service.signal(Signal::SIGTERM);
    eventually("it says that it does not serve", PATIENCE, async || {
        let mut health = HealthClient::new(connect(&service).await);
        let answer = health.check(HealthCheckRequest::default()).await.expect("it still answers").into_inner();
        (answer.status() == ServingStatus::NotServing).then_some(())
    })
    .await;
    let mut new = InventoryClient::new(connect(&service).await);
    new.batch_get_stock(request()).await.expect("a new connection is still served");
    kept.batch_get_stock(request()).await.expect("a client that got GOAWAY connects again");
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_call_in_flight_is_answered_before_the_end(pool: PgPool) {
    let service = serve(&program(&url(&pool))).await;
    let mut client = InventoryClient::new(connect(&service).await);
    let mut lock = pool.acquire().await.expect("a connection");
    raw_sql("BEGIN; LOCK TABLE stock").execute(&mut *lock).await.expect("locked");
    let call = tokio::spawn(async move { client.batch_get_stock(request()).await });
    eventually("the call waits for the lock", PATIENCE, async || {
        let waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'stock'::regclass AND NOT granted";
        let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut *lock).await.expect("a count");
        (waiting > 0).then_some(())
    })
    .await;
    service.signal(Signal::SIGTERM);
    eventually("it drains", PATIENCE, async || {
        service.log().iter().any(|line| line["message"] == "draining").then_some(())
    })
    .await;
    raw_sql("ROLLBACK").execute(&mut *lock).await.expect("unlocked");
    call.await.expect("no panic").expect("an answer");
    assert_eq!(service.ended().await.code(), Some(0));
}

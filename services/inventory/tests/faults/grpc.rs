//! The gRPC port during a stop.

use contracts::inventory::v1::{BatchGetStockRequest, inventory_client::InventoryClient};
use sqlx::{PgPool, raw_sql};
use test_support::process::{Process, Signal, TIMEOUT, eventually};
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
async fn a_draining_service_serves_grpc_but_reports_not_serving(pool: PgPool) {
    let service = serve(&program(&url(&pool)).variable("DRAIN_DELAY", LONG)).await;
    let mut existing = InventoryClient::new(connect(&service).await);
    existing.batch_get_stock(request()).await.expect("a response");
    service.signal(Signal::SIGTERM);
    eventually("not serving", TIMEOUT, async || {
        let mut health = HealthClient::new(connect(&service).await);
        let response = health.check(HealthCheckRequest::default()).await.expect("health still responds").into_inner();
        (response.status() == ServingStatus::NotServing).then_some(())
    })
    .await;
    let mut new = InventoryClient::new(connect(&service).await);
    new.batch_get_stock(request()).await.expect("a new connection is still served");
    existing.batch_get_stock(request()).await.expect("a client that got GOAWAY reconnects");
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_call_in_flight_is_answered_before_the_exit(pool: PgPool) {
    let service = serve(&program(&url(&pool))).await;
    let mut client = InventoryClient::new(connect(&service).await);
    let mut lock = pool.acquire().await.expect("a connection");
    raw_sql("BEGIN; LOCK TABLE stock").execute(&mut *lock).await.expect("locked");
    let call = tokio::spawn(async move { client.batch_get_stock(request()).await });
    eventually("the call is waiting for the lock", TIMEOUT, async || {
        let waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'stock'::regclass AND NOT granted";
        let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut *lock).await.expect("a count");
        (waiting > 0).then_some(())
    })
    .await;
    service.signal(Signal::SIGTERM);
    eventually("draining", TIMEOUT, async || {
        service.log().iter().any(|line| line["message"] == "draining").then_some(())
    })
    .await;
    raw_sql("ROLLBACK").execute(&mut *lock).await.expect("unlocked");
    call.await.expect("no panic").expect("a response");
    assert_eq!(service.ended().await.code(), Some(0));
}

//! When the service is ready.

use serde_json::Value;
use test_support::process::{Process, TIMEOUT, eventually};

use crate::service::{Postgres, client, program, readiness, ready, unavailable};

#[tokio::test]
async fn a_service_starts_without_its_database() {
    let mut postgres = Postgres::migrated().await;
    postgres.server.stop();
    let service = program(&postgres.url).serve().await;
    unavailable(readiness(&service).await).await;
    let client = client();
    unavailable(client.get(service.url("/inventory/p")).send().await.expect("a response")).await;
    assert_eq!(client.get(service.admin_url("/livez")).send().await.expect("a response").status(), 200);

    postgres.server.start_again().expect("the server restarts");
    ready(&service).await;
    assert_eq!(client.get(service.url("/inventory/p")).send().await.expect("a response").status(), 200);
}

#[sqlx::test(migrations = false)]
async fn a_service_with_an_outdated_schema_is_ready_after_migrate(pool: sqlx::PgPool) {
    let program = program(&crate::service::url(&pool));
    let service = program.serve().await;
    let reason = async || unavailable(readiness(&service).await).await["detail"].as_str().map(str::to_owned);
    let outdated = "the database's schema is older than this version needs: run `migrate`";
    let is_outdated = async || reason().await.filter(|reason| reason == outdated);
    eventually("not ready because of the schema", TIMEOUT, is_outdated).await;

    assert_eq!(program.argument("migrate").run().await.code(), Some(0));
    ready(&service).await;
    let response = client().get(service.url("/inventory/p")).send().await.expect("a response");
    let (status, body) = (response.status(), response.json::<Value>().await.expect("JSON"));
    assert_eq!((status.as_u16(), &body["stock"]), (200, &0.into()), "{body}: {:?}", service.log());
}

#[tokio::test]
async fn the_cause_of_an_outage_is_only_logged_and_only_once() {
    let mut postgres = Postgres::migrated().await;
    postgres.server.stop();
    let service = program(&postgres.url).serve().await;
    let first =
        eventually("the first connection attempt", TIMEOUT, async || not_ready(&service).first().cloned()).await;
    assert!(first["cause"].as_str().is_some_and(|cause| cause.contains("os error")), "{first}");
    let unreachable = async || {
        let problem = unavailable(readiness(&service).await).await;
        assert!(!problem.to_string().contains("os error"), "{problem}");
        assert_eq!(problem["detail"], "the database does not respond");
    };
    unreachable().await;
    postgres.server.start_again().expect("the server restarts");
    ready(&service).await;
    postgres.server.stop();
    eventually("not ready again", TIMEOUT, async || (not_ready(&service).len() == 2).then_some(())).await;
    unreachable().await;
}

/// The log lines about readiness.
fn not_ready(service: &Process) -> Vec<Value> {
    service.log().into_iter().filter(|line| line["message"] == "not ready").collect()
}

//! When the service takes requests, and when it does not.

use serde_json::Value;
use test_harness::process::{PATIENCE, eventually};

use crate::service::{Postgres, client, program, readiness, ready, unavailable};

#[tokio::test]
async fn a_service_starts_without_its_database_and_is_ready_once_it_is_there() {
    let mut postgres = Postgres::migrated().await;
    postgres.server.stop();
    let service = program(&postgres.url).serve().await;
    unavailable(readiness(&service).await).await;
    let client = client();
    unavailable(client.get(service.url("/inventory/p")).send().await.expect("an answer")).await;
    assert_eq!(client.get(service.admin_url("/livez")).send().await.expect("an answer").status(), 200);

    postgres.server.start_again().expect("it starts again");
    ready(&service).await;
    assert_eq!(client.get(service.url("/inventory/p")).send().await.expect("an answer").status(), 200);
}

#[sqlx::test(migrations = false)]
async fn a_service_whose_schema_is_too_old_says_so_and_is_ready_after_migrate(pool: sqlx::PgPool) {
    let program = program(&crate::service::url(&pool));
    let service = program.serve().await;
    let reason = async |service| unavailable(readiness(service).await).await["detail"].as_str().map(str::to_owned);
    let newest = inventory::MIGRATIONS.iter().map(|migration| migration.version).max().expect("a migration");
    eventually("not ready for the schema's sake", PATIENCE, async || {
        reason(&service).await.filter(|reason| {
            reason.contains("schema has version 0") && reason.contains(&format!("version {newest} is needed"))
        })
    })
    .await;

    assert_eq!(program.argument("migrate").run().await.code(), Some(0));
    ready(&service).await;
    let answer = client().get(service.url("/inventory/p")).send().await.expect("an answer");
    let (status, body) = (answer.status(), answer.json::<Value>().await.expect("JSON"));
    assert_eq!((status.as_u16(), &body["stock"]), (200, &0.into()), "{body}: {:?}", service.log());
}

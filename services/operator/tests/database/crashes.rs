//! Crashes of the operator at any point: its connections are cut after each statement that may write.

use operator::database::Server;

use crate::{PASSWORD, changes, ensure, owner, postgres::Postgres, proxy::Proxy, spec};

/// Whether everything there is recognized as owned, and nothing is accessible to PUBLIC.
async fn is_sound(postgres: &Postgres) -> bool {
    let owner = owner("inventory");
    postgres
        .holds(&format!(
            "NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'inventory'
                         AND shobj_description(oid, 'pg_authid') IS DISTINCT FROM '{owner}')
             AND NOT EXISTS (SELECT FROM pg_database WHERE datname = 'inventory'
                             AND (pg_get_userbyid(datdba) <> 'inventory' OR datallowconn AND datacl IS NULL))"
        ))
        .await
}

async fn is_gone(postgres: &Postgres) -> bool {
    postgres
        .holds(
            "NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'inventory')
             AND NOT EXISTS (SELECT FROM pg_database WHERE datname = 'inventory')",
        )
        .await
}

async fn ensures(server: &Server, postgres: &Postgres) {
    ensure(server, &spec("inventory")).await;
    assert_eq!(changes(server, &spec("inventory")).await, [""; 0]);
    postgres.open("inventory", PASSWORD, "inventory").await.unwrap();
}

#[tokio::test]
async fn an_interrupted_creation_is_completed() {
    let postgres = Postgres::shared().await;
    let (server, spec) = (postgres.server(), spec("inventory"));
    let proxy = Proxy::start(&postgres).await;
    let mut statements = 0;
    loop {
        statements += 1;
        proxy.ends_after(statements);
        let crashed = proxy.server().ensure(&spec).await.is_err();
        assert!(is_sound(&postgres).await, "after {statements} statements");
        ensures(&server, &postgres).await;
        if !crashed {
            break;
        }
        server.remove("inventory", &spec.owner).await.unwrap();
        assert!(is_gone(&postgres).await, "after {statements} statements");
    }
    assert!(statements > 12, "only {statements} statements");
}

#[tokio::test]
async fn an_interrupted_creation_can_be_removed() {
    let postgres = Postgres::shared().await;
    let (server, spec) = (postgres.server(), spec("inventory"));
    let proxy = Proxy::start(&postgres).await;
    for statements in 1.. {
        proxy.ends_after(statements);
        let crashed = proxy.server().ensure(&spec).await.is_err();
        server.remove("inventory", &spec.owner).await.unwrap();
        assert!(is_gone(&postgres).await, "after {statements} statements");
        if !crashed {
            break;
        }
    }
}

#[tokio::test]
async fn an_interrupted_removal_can_be_finished_or_undone() {
    let postgres = Postgres::shared().await;
    let (server, spec) = (postgres.server(), spec("inventory"));
    let proxy = Proxy::start(&postgres).await;
    for statements in 1.. {
        ensure(&server, &spec).await;
        proxy.ends_after(statements);
        let crashed = proxy.server().remove("inventory", &spec.owner).await.is_err();
        if statements % 2 == 0 {
            ensures(&server, &postgres).await;
        }
        server.remove("inventory", &spec.owner).await.unwrap();
        assert!(is_gone(&postgres).await, "after {statements} statements");
        if !crashed {
            break;
        }
    }
}

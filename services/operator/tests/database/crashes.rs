//! An operator that dies at any point: after each statement that may write, its connections are cut.

use operator::database::Server;

use crate::{PASSWORD, ensure, left_to_do, mark, postgres::Postgres, proxy::Proxy, wanted};

/// Nothing is there that the next attempt would take for somebody else's, and nothing is open to everyone.
async fn is_sound(postgres: &Postgres) -> bool {
    let mark = mark("inventory");
    postgres
        .holds(&format!(
            "NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'inventory'
                         AND shobj_description(oid, 'pg_authid') IS DISTINCT FROM '{mark}')
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
    ensure(server, &wanted("inventory")).await;
    assert_eq!(left_to_do(server, &wanted("inventory")).await, [""; 0]);
    postgres.open("inventory", PASSWORD, "inventory").await.unwrap();
}

#[tokio::test]
async fn what_a_crash_left_half_made_is_completed() {
    let postgres = Postgres::start().await;
    let (server, wanted) = (postgres.server(), wanted("inventory"));
    let proxy = Proxy::start(&postgres).await;
    let mut statements = 0;
    loop {
        statements += 1;
        proxy.ends_after(statements);
        let crashed = proxy.server().ensure(&wanted).await.is_err();
        assert!(is_sound(&postgres).await, "after {statements} statements");
        ensures(&server, &postgres).await;
        if !crashed {
            break;
        }
        server.remove("inventory", &wanted.mark).await.unwrap();
        assert!(is_gone(&postgres).await, "after {statements} statements");
    }
    assert!(statements > 12, "{statements} statements are too few");
}

#[tokio::test]
async fn what_a_crash_left_half_made_can_be_removed() {
    let postgres = Postgres::start().await;
    let (server, wanted) = (postgres.server(), wanted("inventory"));
    let proxy = Proxy::start(&postgres).await;
    for statements in 1.. {
        proxy.ends_after(statements);
        let crashed = proxy.server().ensure(&wanted).await.is_err();
        server.remove("inventory", &wanted.mark).await.unwrap();
        assert!(is_gone(&postgres).await, "after {statements} statements");
        if !crashed {
            break;
        }
    }
}

#[tokio::test]
async fn what_a_crash_left_half_removed_is_removed_or_made_again() {
    let postgres = Postgres::start().await;
    let (server, wanted) = (postgres.server(), wanted("inventory"));
    let proxy = Proxy::start(&postgres).await;
    for statements in 1.. {
        ensure(&server, &wanted).await;
        proxy.ends_after(statements);
        let crashed = proxy.server().remove("inventory", &wanted.mark).await.is_err();
        if statements % 2 == 0 {
            ensures(&server, &postgres).await;
        }
        server.remove("inventory", &wanted.mark).await.unwrap();
        assert!(is_gone(&postgres).await, "after {statements} statements");
        if !crashed {
            break;
        }
    }
}

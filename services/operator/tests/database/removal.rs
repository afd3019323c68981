//! `remove` takes a database out of service and drops it with its role.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use operator::database::Error;
use sqlx::{Connection, Executor};

use crate::{PASSWORD, ensure, mark, postgres::Postgres, proxy::until, wanted};

#[tokio::test]
async fn database_and_role_are_dropped_once() {
    let postgres = Postgres::start().await;
    for server in [postgres.server(), postgres.with_superuser()] {
        ensure(&server, &wanted("inventory")).await;
        let removed = server.remove("inventory", &mark("inventory")).await.unwrap();
        let last = [r#"dropped the database "inventory""#, r#"dropped the role "inventory""#];
        assert!(removed.done.ends_with(&last.map(String::from)), "{removed:?}");
        assert_eq!(server.remove("inventory", &mark("inventory")).await.unwrap().done, [""; 0]);
    }
}

#[tokio::test]
async fn clients_that_are_connected_and_come_back_do_not_keep_it() {
    let postgres = Arc::new(Postgres::start().await);
    let server = postgres.server();
    ensure(&server, &wanted("inventory")).await;
    let (over, connected) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (postgres, over, connected) = (postgres.clone(), over.clone(), connected.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    let Ok(mut client) = postgres.open("inventory", PASSWORD, "inventory").await else { continue };
                    connected.fetch_add(1, Ordering::SeqCst);
                    let _ = client.execute("SELECT pg_sleep(60)").await;
                }
            })
        })
        .collect();
    until("the clients connect", async || connected.load(Ordering::SeqCst) >= 4).await;
    server.remove("inventory", &mark("inventory")).await.unwrap();
    over.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    assert!(postgres.holds("NOT EXISTS (SELECT FROM pg_database WHERE datname = 'inventory')").await);
}

#[tokio::test]
async fn an_admin_who_lost_the_role_takes_it_back() {
    let postgres = Postgres::start().await;
    ensure(&postgres.server(), &wanted("inventory")).await;
    let mut admin = postgres.open("admin", crate::postgres::ADMIN_PASSWORD, "postgres").await.unwrap();
    admin.execute("REVOKE inventory FROM admin").await.unwrap();
    admin.close().await.unwrap();
    postgres.server().remove("inventory", &mark("inventory")).await.unwrap();
}

#[tokio::test]
async fn the_remains_of_a_database_are_dropped() {
    let postgres = Postgres::start().await;
    ensure(&postgres.server(), &wanted("inventory")).await;
    postgres.sql("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'inventory'").await;
    postgres.server().remove("inventory", &mark("inventory")).await.unwrap();
}

#[tokio::test]
async fn a_template_is_dropped_too() {
    let postgres = Postgres::start().await;
    ensure(&postgres.server(), &wanted("inventory")).await;
    postgres.sql("ALTER DATABASE inventory IS_TEMPLATE true ALLOW_CONNECTIONS false").await;
    postgres.server().remove("inventory", &mark("inventory")).await.unwrap();
}

#[tokio::test]
async fn a_role_that_is_still_needed_is_named_with_what_needs_it() {
    let postgres = Postgres::start().await;
    ensure(&postgres.server(), &wanted("inventory")).await;
    postgres.sql("CREATE TABLE shared (id int); GRANT SELECT ON shared TO inventory").await;
    let error = postgres.server().remove("inventory", &mark("inventory")).await.unwrap_err();
    assert!(matches!(error, Error::Sql { .. }));
    let text =
        r#"cannot drop the role "inventory": role "inventory" cannot be dropped because some objects depend on it"#;
    assert!(error.to_string().starts_with(text), "{error}");
    postgres.sql("DROP TABLE shared").await;
    postgres.server().remove("inventory", &mark("inventory")).await.unwrap();
}

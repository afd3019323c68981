//! `remove` takes a database out of service and drops it with its role.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use operator::database::Error;
use sqlx::{Connection, Executor};

use crate::{PASSWORD, ensure, owner, postgres::Postgres, proxy::until, spec};

#[tokio::test]
async fn database_and_role_are_dropped_once() {
    let postgres = Postgres::shared().await;
    for server in [postgres.server(), postgres.with_superuser()] {
        ensure(&server, &spec("inventory")).await;
        let removed = server.remove("inventory", &owner("inventory")).await.unwrap();
        let last = [r#"dropped database "inventory""#, r#"dropped role "inventory""#];
        assert!(removed.changes.ends_with(&last.map(String::from)), "{removed:?}");
        assert_eq!(server.remove("inventory", &owner("inventory")).await.unwrap().changes, [""; 0]);
    }
}

#[tokio::test]
async fn reconnecting_clients_do_not_prevent_removal() {
    let postgres = Arc::new(Postgres::shared().await);
    let server = postgres.server();
    ensure(&server, &spec("inventory")).await;
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
    server.remove("inventory", &owner("inventory")).await.unwrap();
    over.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    assert!(postgres.holds("NOT EXISTS (SELECT FROM pg_database WHERE datname = 'inventory')").await);
}

#[tokio::test]
async fn an_admin_without_the_role_regains_it() {
    let postgres = Postgres::shared().await;
    ensure(&postgres.server(), &spec("inventory")).await;
    let mut admin = postgres.open("admin", crate::postgres::ADMIN_PASSWORD, "postgres").await.unwrap();
    admin.execute("REVOKE inventory FROM admin").await.unwrap();
    admin.close().await.unwrap();
    postgres.server().remove("inventory", &owner("inventory")).await.unwrap();
}

#[tokio::test]
async fn a_half_dropped_database_is_dropped() {
    let postgres = Postgres::shared().await;
    ensure(&postgres.server(), &spec("inventory")).await;
    postgres.sql("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'inventory'").await;
    postgres.server().remove("inventory", &owner("inventory")).await.unwrap();
}

#[tokio::test]
async fn a_template_is_dropped_too() {
    let postgres = Postgres::shared().await;
    ensure(&postgres.server(), &spec("inventory")).await;
    postgres.sql("ALTER DATABASE inventory IS_TEMPLATE true ALLOW_CONNECTIONS false").await;
    postgres.server().remove("inventory", &owner("inventory")).await.unwrap();
}

#[tokio::test]
async fn a_role_with_dependents_is_reported() {
    let postgres = Postgres::shared().await;
    ensure(&postgres.server(), &spec("inventory")).await;
    postgres.sql("CREATE TABLE shared (id int); GRANT SELECT ON shared TO inventory").await;
    let error = postgres.server().remove("inventory", &owner("inventory")).await.unwrap_err();
    assert!(matches!(error, Error::Sql { .. }));
    let text = r#"cannot drop role "inventory": role "inventory" cannot be dropped because some objects depend on it"#;
    assert!(error.to_string().starts_with(text), "{error}");
    postgres.sql("DROP TABLE shared").await;
    postgres.server().remove("inventory", &owner("inventory")).await.unwrap();
}

//! A password goes nowhere but to its role.

use crate::{
    PASSWORD, ensure, left_to_do,
    postgres::{ADMIN_PASSWORD, Postgres},
    wanted,
};

#[tokio::test]
async fn a_password_never_reaches_the_servers_log() {
    let postgres = Postgres::start().await;
    postgres.sql("ALTER SYSTEM SET log_statement = 'all'; ALTER SYSTEM SET log_min_duration_statement = 0; SELECT pg_reload_conf()").await;
    ensure(&postgres.server(), &wanted("inventory")).await;
    postgres.sql("ALTER ROLE inventory PASSWORD NULL").await;
    assert_eq!(left_to_do(&postgres.server(), &wanted("inventory")).await.len(), 1);
    let log = postgres.log();
    for statement in ["CREATE ROLE \"inventory\"", "ALTER ROLE \"inventory\" PASSWORD 'SCRAM-SHA-256$"] {
        assert!(log.contains(statement), "{statement}: {log}");
    }
    assert!(!log.contains(PASSWORD));
}

#[tokio::test]
async fn the_server_keeps_a_scram_verifier() {
    let postgres = Postgres::start().await;
    postgres.sql("ALTER SYSTEM SET password_encryption = 'md5'; SELECT pg_reload_conf()").await;
    ensure(&postgres.server(), &wanted("inventory")).await;
    let kept = postgres.list("SELECT rolpassword FROM pg_authid WHERE rolname = 'inventory'").await;
    assert!(kept[0].starts_with("SCRAM-SHA-256$4096:"));
    postgres.open("inventory", PASSWORD, "inventory").await.unwrap();
}

#[tokio::test]
async fn nothing_that_is_shown_holds_a_password() {
    let postgres = Postgres::start().await;
    let (server, wanted) = (postgres.server(), wanted("inventory"));
    let ensured = ensure(&server, &wanted).await;
    postgres.sql("ALTER ROLE admin NOLOGIN").await;
    let error = server.ensure(&wanted).await.unwrap_err();
    for shown in [format!("{server:?} {wanted:?}"), format!("{ensured:?}"), format!("{error} {error:?}")] {
        assert!(!shown.contains(PASSWORD) && !shown.contains(ADMIN_PASSWORD), "{shown}");
    }
}

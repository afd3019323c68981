//! Passwords do not leak.

use crate::{
    PASSWORD, changes, ensure,
    postgres::{ADMIN_PASSWORD, Postgres},
    spec,
};

#[tokio::test]
async fn the_server_log_contains_no_password() {
    let postgres = Postgres::start().await;
    postgres.sql("ALTER SYSTEM SET log_statement = 'all'; ALTER SYSTEM SET log_min_duration_statement = 0; SELECT pg_reload_conf()").await;
    ensure(&postgres.server(), &spec("inventory")).await;
    postgres.sql("ALTER ROLE inventory PASSWORD NULL").await;
    assert_eq!(changes(&postgres.server(), &spec("inventory")).await.len(), 1);
    let log = postgres.log();
    for statement in ["CREATE ROLE \"inventory\"", "ALTER ROLE \"inventory\" PASSWORD 'SCRAM-SHA-256$"] {
        assert!(log.contains(statement), "{statement}: {log}");
    }
    assert!(!log.contains(PASSWORD));
}

#[tokio::test]
async fn the_server_stores_a_scram_verifier() {
    let postgres = Postgres::shared().await;
    postgres.sql("ALTER SYSTEM SET password_encryption = 'md5'; SELECT pg_reload_conf()").await;
    ensure(&postgres.server(), &spec("inventory")).await;
    let kept = postgres.list("SELECT rolpassword FROM pg_authid WHERE rolname = 'inventory'").await;
    assert!(kept[0].starts_with("SCRAM-SHA-256$4096:"));
    postgres.open("inventory", PASSWORD, "inventory").await.unwrap();
}

#[tokio::test]
async fn debug_output_and_errors_contain_no_password() {
    let postgres = Postgres::shared().await;
    let (server, spec) = (postgres.server(), spec("inventory"));
    let report = ensure(&server, &spec).await;
    postgres.sql("ALTER ROLE admin NOLOGIN").await;
    let error = server.ensure(&spec).await.unwrap_err();
    for shown in [format!("{server:?} {spec:?}"), format!("{report:?}"), format!("{error} {error:?}")] {
        assert!(!shown.contains(PASSWORD) && !shown.contains(ADMIN_PASSWORD), "{shown}");
    }
}

//! Creation of a role and a database.

use embedded_postgres::Settings;
use operator::database::{Error, Warning};

use crate::{changes, ensure, owner, postgres::Postgres, spec};

#[tokio::test]
async fn a_role_and_its_database_are_created_with_owner() {
    let postgres = Postgres::shared().await;
    let report = ensure(&postgres.server(), &spec("inventory")).await;
    assert!(report.changes.contains(&r#"created role "inventory""#.to_owned()), "{report:?}");
    assert!(report.changes.contains(&r#"created database "inventory""#.to_owned()), "{report:?}");

    let marks = "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = 'inventory' UNION ALL
                 SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'inventory'";
    assert_eq!(postgres.list(marks).await, [owner("inventory").to_string(), owner("inventory").to_string()]);
    assert_eq!(
        postgres.list("SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = 'inventory'").await,
        ["inventory"]
    );
    postgres.sql_as("inventory", "CREATE TABLE stock (id int)").await.unwrap();
}

#[tokio::test]
async fn nothing_is_written_if_nothing_differs() {
    let postgres = Postgres::start().await;
    for server in [postgres.server(), postgres.with_superuser()] {
        ensure(&server, &spec("inventory")).await;
        postgres.sql("ALTER SYSTEM SET log_statement = 'mod'; SELECT pg_reload_conf()").await;
        let before = postgres.list("SELECT pg_current_wal_insert_lsn()::text").await;
        assert_eq!(changes(&server, &spec("inventory")).await, [""; 0]);
        // The background writer logs a snapshot of running transactions only after a write.
        let after = postgres.list("SELECT pg_current_wal_insert_lsn()::text").await;
        assert_eq!(before, after);
        postgres.sql("DROP DATABASE inventory; DROP ROLE inventory").await;
    }
}

#[tokio::test]
async fn a_superuser_may_be_the_admin() {
    let postgres = Postgres::shared().await;
    let server = postgres.with_superuser();
    let report = ensure(&server, &spec("inventory")).await;
    assert_eq!(report.warnings, []);
    assert!(!postgres.holds("EXISTS (SELECT FROM pg_auth_members WHERE roleid = 'inventory'::regrole)").await);
    postgres.sql_as("inventory", "CREATE TABLE stock (id int)").await.unwrap();
}

#[tokio::test]
async fn every_name_that_postgres_accepts_works() {
    let postgres = Postgres::shared().await;
    let longest = "x".repeat(63);
    for name in [r#"a"; DROP TABLE b; --"#, "Größe", "it's", r"\", "select", "a.b", longest.as_str()] {
        let spec = operator::database::DatabaseSpec { name: name.to_owned(), ..spec("inventory") };
        ensure(&postgres.server(), &spec).await;
        assert_eq!(changes(&postgres.server(), &spec).await, [""; 0]);
        postgres.open(name, crate::PASSWORD, name).await.unwrap();
    }
    for name in ["", "a\0b", "x".repeat(64).as_str()] {
        let spec = operator::database::DatabaseSpec { name: name.to_owned(), ..spec("inventory") };
        assert!(matches!(postgres.server().ensure(&spec).await, Err(Error::Invalid(_))));
    }
}

#[tokio::test]
async fn concurrent_operators_do_not_conflict() {
    let postgres = Postgres::shared().await;
    for server in [postgres.server(), postgres.with_superuser()] {
        let names = ["users", "inventory", "orders"].map(spec);
        let (one, other) = (server.clone(), server.clone());
        let [users, inventory, orders] = &names;
        let all = tokio::join!(
            one.ensure(users),
            one.ensure(inventory),
            one.ensure(orders),
            other.ensure(users),
            other.ensure(inventory),
            other.ensure(orders),
        );
        let all = [all.0, all.1, all.2, all.3, all.4, all.5].map(Result::unwrap);
        for (one, other) in [(&all[0], &all[3]), (&all[1], &all[4]), (&all[2], &all[5])] {
            assert!(
                one.changes.len().min(other.changes.len()) <= 1,
                "one of them had nothing left to do: {one:?} {other:?}"
            );
        }
        for spec in &names {
            assert_eq!(changes(&server, spec).await, [""; 0]);
            server.remove(&spec.name, &spec.owner).await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_schema_version_is_reported_if_it_is_known() {
    let postgres = Postgres::shared().await;
    let server = postgres.server();
    let version = async || server.ensure(&spec("inventory")).await.map(|report| report.schema_version);

    assert_eq!(version().await.unwrap(), Some(0));
    postgres.sql_as("inventory", "CREATE TABLE stock (id int)").await.unwrap();
    assert_eq!(version().await.unwrap(), None);
    postgres.sql_as("inventory", "CREATE TABLE _sqlx_migrations (version bigint, success bool)").await.unwrap();
    assert_eq!(version().await.unwrap(), Some(0));
    postgres.sql_as("inventory", "INSERT INTO _sqlx_migrations VALUES (1, true), (2, true), (3, false)").await.unwrap();
    assert_eq!(version().await.unwrap(), Some(2));
    postgres.sql_as("inventory", "ALTER TABLE _sqlx_migrations RENAME success TO done").await.unwrap();
    assert_eq!(version().await.unwrap(), None);
}

#[tokio::test]
async fn a_database_without_tables_need_not_be_empty() {
    let postgres = Postgres::shared().await;
    let server = postgres.server();
    ensure(&server, &spec("functions")).await;
    let version = async || server.ensure(&spec("functions")).await.map(|report| report.schema_version);
    assert_eq!(version().await.unwrap(), Some(0));
    for (create, drop) in [
        ("CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'", "DROP FUNCTION one"),
        ("CREATE TYPE color AS ENUM ('red')", "DROP TYPE color"),
        ("CREATE SCHEMA other", "DROP SCHEMA other"),
        ("CREATE EXTENSION citext", "DROP EXTENSION citext"),
        (
            "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
            "ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC",
        ),
    ] {
        postgres.sql_as("functions", create).await.unwrap();
        assert_eq!(version().await.unwrap(), None, "{create}");
        postgres.sql_as("functions", drop).await.unwrap();
        assert_eq!(version().await.unwrap(), Some(0), "{drop}");
    }
    postgres.sql_as("functions", "CREATE TEMPORARY TABLE t (id int); DROP TABLE t").await.unwrap();
    assert_eq!(version().await.unwrap(), Some(0), "the namespace of temporary tables stays");
    server.remove("functions", &spec("functions").owner).await.unwrap();
}

#[tokio::test]
async fn exceeding_the_servers_connections_is_a_warning() {
    let postgres = Postgres::start_with(&Settings { max_connections: 50, ..Settings::for_tests() }).await;
    let server = postgres.with_superuser();
    let limited = |name, connection_limit| operator::database::DatabaseSpec { connection_limit, ..spec(name) };
    // Three connections are reserved for superusers.
    assert_eq!(ensure(&server, &limited("users", 47)).await.warnings, []);
    let too_many = Warning::Connections { limit: 48, others: 0, available: 47 };
    assert_eq!(ensure(&server, &limited("users", 48)).await.warnings, [too_many]);
    assert_eq!(ensure(&server, &limited("users", 30)).await.warnings, []);

    let too_many = Warning::Connections { limit: 20, others: 30, available: 47 };
    let report = ensure(&server, &limited("inventory", 20)).await;
    assert_eq!(report.warnings, [too_many]);
    assert_eq!(
        report.warnings[0].to_string(),
        "the connection limits exceed the 47 connections of the server: 20 for this service and 30 for all others"
    );
}

#[tokio::test]
async fn a_missing_privilege_is_reported() {
    let postgres = Postgres::shared().await;
    for (lost, action) in [("NOCREATEROLE", "create role"), ("CREATEROLE NOCREATEDB", "create database")] {
        postgres.sql(&format!("ALTER ROLE admin {lost}")).await;
        let error = postgres.server().ensure(&spec("inventory")).await.unwrap_err();
        assert!(matches!(error, Error::PrivilegeMissing { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.starts_with(&format!(
                r#"the admin "admin" lacks the privilege to {action} "inventory": permission denied"#
            )),
            "{text}"
        );
    }
}

//! A role can connect to its own database only.

use operator::database::Warning;
use sqlx::Executor;

use crate::{
    PASSWORD, ensure,
    postgres::{ADMIN_PASSWORD, Postgres, code},
    proxy::Proxy,
    spec,
};

/// `insufficient_privilege`.
const REFUSED: &str = "42501";

#[tokio::test]
async fn a_role_can_connect_to_its_own_database_only() {
    let postgres = Postgres::shared().await;
    let server = postgres.with_superuser();
    ensure(&server, &spec("users")).await;
    ensure(&server, &spec("inventory")).await;
    // Services connect over TCP.
    let proxy = Proxy::start(&postgres).await;
    for (role, other) in [("users", "inventory"), ("inventory", "users")] {
        proxy.open(role, PASSWORD, role).await.unwrap();
        for database in [other, "postgres", "template1"] {
            assert_eq!(code(proxy.open(role, PASSWORD, database).await), REFUSED, "{role} connects to {database}");
        }
        assert_eq!(code(proxy.open(role, "a guess", role).await), "28P01");
    }
}

#[tokio::test]
async fn a_role_can_create_neither_databases_nor_roles() {
    let postgres = Postgres::shared().await;
    ensure(&postgres.server(), &spec("inventory")).await;
    let mut role = postgres.open("inventory", PASSWORD, "inventory").await.unwrap();
    for statement in [
        "CREATE DATABASE another",
        "CREATE ROLE another",
        "SET ROLE admin",
        "COMMENT ON ROLE inventory IS 'mine'",
        "ALTER DATABASE inventory RENAME TO another",
        "ALTER ROLE inventory CREATEDB",
    ] {
        assert_eq!(code(role.execute(statement).await), REFUSED, "{statement}");
    }
}

#[tokio::test]
async fn databases_that_stay_public_are_a_warning() {
    let postgres = Postgres::shared().await;
    let public = |names: &[&str]| Warning::CanConnectTo(names.iter().map(ToString::to_string).collect());
    let report = ensure(&postgres.server(), &spec("inventory")).await;
    assert_eq!(report.warnings, [public(&["postgres", "template1"])]);

    // On a managed server, the admin owns the default database.
    postgres.sql("ALTER DATABASE postgres OWNER TO admin").await;
    let report = ensure(&postgres.server(), &spec("inventory")).await;
    assert_eq!(report.changes, [r#"revoked CONNECT on database "postgres" from PUBLIC"#]);
    assert_eq!(report.warnings, [public(&["template1"])]);
    assert_eq!(ensure(&postgres.server(), &spec("inventory")).await.changes, [""; 0]);
}

#[tokio::test]
async fn a_new_database_is_never_public() {
    let postgres = Postgres::shared().await;
    let server = postgres.server();
    let proxy = Proxy::start(&postgres).await;
    // Right after it was created, before any other statement.
    proxy.ends_with("CREATE DATABASE");
    assert!(proxy.server().ensure(&spec("inventory")).await.is_err());
    while !postgres.holds("EXISTS (SELECT FROM pg_database WHERE datname = 'inventory')").await {}
    assert!(postgres.open("admin", ADMIN_PASSWORD, "inventory").await.is_err());
    ensure(&server, &spec("inventory")).await;
    postgres.open("inventory", PASSWORD, "inventory").await.unwrap();
}

#[tokio::test]
async fn a_service_cannot_make_the_admin_run_its_functions() {
    let postgres = Postgres::shared().await;
    let server = postgres.with_superuser();
    ensure(&server, &spec("inventory")).await;
    // With this search path, comparing two names or reading the schema version would make the role a superuser.
    let trap = "
        CREATE SCHEMA trap;
        CREATE FUNCTION trap.same(name, name) RETURNS bool LANGUAGE plpgsql AS $$
            BEGIN EXECUTE 'ALTER ROLE inventory SUPERUSER'; RETURN true; END $$;
        CREATE OPERATOR trap.= (LEFTARG = name, RIGHTARG = name, FUNCTION = trap.same);
        CREATE FUNCTION public.trap() RETURNS bigint LANGUAGE plpgsql AS $$
            BEGIN EXECUTE 'ALTER ROLE inventory SUPERUSER'; RETURN 3; END $$;
        CREATE VIEW public._sqlx_migrations AS SELECT public.trap() AS version, true AS success;
        ALTER DATABASE inventory SET search_path = trap, public, pg_catalog;
        GRANT USAGE ON SCHEMA public TO PUBLIC";
    postgres.sql_as("inventory", trap).await.unwrap();
    let _ = server.ensure(&spec("inventory")).await;
    assert!(postgres.holds("NOT (SELECT rolsuper FROM pg_roles WHERE rolname = 'inventory')").await);
}

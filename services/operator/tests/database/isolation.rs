//! A role opens its own database and no other.

use operator::database::Warning;
use sqlx::Executor;

use crate::{
    PASSWORD, ensure,
    postgres::{ADMIN_PASSWORD, Postgres, code},
    proxy::Proxy,
    wanted,
};

/// `insufficient_privilege`.
const REFUSED: &str = "42501";

#[tokio::test]
async fn a_role_opens_its_own_database_and_no_other() {
    let postgres = Postgres::start().await;
    let server = postgres.with_superuser();
    ensure(&server, &wanted("users")).await;
    ensure(&server, &wanted("inventory")).await;
    // Over TCP, as services do.
    let proxy = Proxy::start(&postgres).await;
    for (role, other) in [("users", "inventory"), ("inventory", "users")] {
        proxy.open(role, PASSWORD, role).await.unwrap();
        for database in [other, "postgres", "template1"] {
            assert_eq!(code(proxy.open(role, PASSWORD, database).await), REFUSED, "{role} opens {database}");
        }
        assert_eq!(code(proxy.open(role, "a guess", role).await), "28P01");
    }
}

#[tokio::test]
async fn a_role_makes_no_databases_and_no_roles() {
    let postgres = Postgres::start().await;
    ensure(&postgres.server(), &wanted("inventory")).await;
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
async fn what_the_admin_may_not_close_is_a_warning() {
    let postgres = Postgres::start().await;
    let opens = |names: &[&str]| Warning::Opens(names.iter().map(ToString::to_string).collect());
    let ensured = ensure(&postgres.server(), &wanted("inventory")).await;
    assert_eq!(ensured.warnings, [opens(&["postgres", "template1"])]);

    // As on a managed server, where the first database is the admin's.
    postgres.sql("ALTER DATABASE postgres OWNER TO admin").await;
    let ensured = ensure(&postgres.server(), &wanted("inventory")).await;
    assert_eq!(ensured.done, [r#"took the database "postgres" from everyone else"#]);
    assert_eq!(ensured.warnings, [opens(&["template1"])]);
    assert_eq!(ensure(&postgres.server(), &wanted("inventory")).await.done, [""; 0]);
}

#[tokio::test]
async fn a_database_is_never_open_to_everyone() {
    let postgres = Postgres::start().await;
    let server = postgres.server();
    let proxy = Proxy::start(&postgres).await;
    // Right after it was made, with nothing else done yet.
    proxy.ends_with("CREATE DATABASE");
    assert!(proxy.server().ensure(&wanted("inventory")).await.is_err());
    while !postgres.holds("EXISTS (SELECT FROM pg_database WHERE datname = 'inventory')").await {}
    assert!(postgres.open("admin", ADMIN_PASSWORD, "inventory").await.is_err());
    ensure(&server, &wanted("inventory")).await;
    postgres.open("inventory", PASSWORD, "inventory").await.unwrap();
}

#[tokio::test]
async fn what_a_service_does_to_its_database_turns_no_admin_against_its_server() {
    let postgres = Postgres::start().await;
    let server = postgres.with_superuser();
    ensure(&server, &wanted("inventory")).await;
    // Whoever follows this search path makes the role a superuser, by comparing two names or by counting to three.
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
    let _ = server.ensure(&wanted("inventory")).await;
    let _ = server.schema_version("inventory", PASSWORD).await;
    assert!(postgres.holds("NOT (SELECT rolsuper FROM pg_roles WHERE rolname = 'inventory')").await);
}

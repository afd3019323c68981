//! From nothing to a role and a database.

use embedded_postgres::Settings;
use operator::database::{Error, Warning};

use crate::{ensure, left_to_do, mark, postgres::Postgres, wanted};

#[tokio::test]
async fn a_role_and_its_database_are_made_and_marked() {
    let postgres = Postgres::start().await;
    let ensured = ensure(&postgres.server(), &wanted("inventory")).await;
    assert!(ensured.done.contains(&r#"made the role "inventory""#.to_owned()), "{ensured:?}");
    assert!(ensured.done.contains(&r#"made the database "inventory""#.to_owned()), "{ensured:?}");

    let marks = "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = 'inventory' UNION ALL
                 SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'inventory'";
    assert_eq!(postgres.list(marks).await, [mark("inventory").to_string(), mark("inventory").to_string()]);
    assert_eq!(
        postgres.list("SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = 'inventory'").await,
        ["inventory"]
    );
    postgres.sql_as("inventory", "CREATE TABLE stock (id int)").await.unwrap();
}

#[tokio::test]
async fn nothing_is_written_when_all_is_well() {
    let postgres = Postgres::start().await;
    for server in [postgres.server(), postgres.with_superuser()] {
        ensure(&server, &wanted("inventory")).await;
        postgres.sql("ALTER SYSTEM SET log_statement = 'mod'; SELECT pg_reload_conf()").await;
        let before = postgres.list("SELECT pg_current_wal_insert_lsn()::text").await;
        assert_eq!(left_to_do(&server, &wanted("inventory")).await, [""; 0]);
        // The background writer may log a snapshot of running transactions, and does so only after a write.
        let after = postgres.list("SELECT pg_current_wal_insert_lsn()::text").await;
        assert_eq!(before, after);
        postgres.sql("DROP DATABASE inventory; DROP ROLE inventory").await;
    }
}

#[tokio::test]
async fn a_superuser_may_be_the_admin() {
    let postgres = Postgres::start().await;
    let server = postgres.with_superuser();
    let ensured = ensure(&server, &wanted("inventory")).await;
    assert_eq!(ensured.warnings, []);
    assert!(!postgres.holds("EXISTS (SELECT FROM pg_auth_members WHERE roleid = 'inventory'::regrole)").await);
    postgres.sql_as("inventory", "CREATE TABLE stock (id int)").await.unwrap();
}

#[tokio::test]
async fn any_name_goes_that_postgres_takes() {
    let postgres = Postgres::start().await;
    let longest = "x".repeat(63);
    for name in [r#"a"; DROP TABLE b; --"#, "Größe", "it's", r"\", "select", "a.b", longest.as_str()] {
        let wanted = operator::database::Wanted { name: name.to_owned(), ..wanted("inventory") };
        ensure(&postgres.server(), &wanted).await;
        assert_eq!(left_to_do(&postgres.server(), &wanted).await, [""; 0]);
        postgres.open(name, crate::PASSWORD, name).await.unwrap();
    }
    for name in ["", "a\0b", "x".repeat(64).as_str()] {
        let wanted = operator::database::Wanted { name: name.to_owned(), ..wanted("inventory") };
        assert!(matches!(postgres.server().ensure(&wanted).await, Err(Error::Invalid(_))));
    }
}

#[tokio::test]
async fn two_operators_at_once_do_no_harm() {
    let postgres = Postgres::start().await;
    for server in [postgres.server(), postgres.with_superuser()] {
        let names = ["users", "inventory", "orders"].map(wanted);
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
            assert!(one.done.len().min(other.done.len()) <= 1, "one of them has nothing left to do: {one:?} {other:?}");
        }
        for wanted in &names {
            assert_eq!(left_to_do(&server, wanted).await, [""; 0]);
            server.remove(&wanted.name, &wanted.mark).await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_version_of_the_schema_is_told_where_it_can_be() {
    let postgres = Postgres::start().await;
    let server = postgres.server();
    ensure(&server, &wanted("inventory")).await;
    let version = || server.schema_version("inventory", crate::PASSWORD);

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
async fn more_connections_than_the_server_gives_are_a_warning() {
    let postgres = Postgres::start_with(&Settings { max_connections: 50, ..Settings::for_tests() }).await;
    let server = postgres.with_superuser();
    let limited = |name, connection_limit| operator::database::Wanted { connection_limit, ..wanted(name) };
    // Three are kept for superusers.
    assert_eq!(ensure(&server, &limited("users", 47)).await.warnings, []);
    let too_many = Warning::Connections { limit: 48, others: 0, available: 47 };
    assert_eq!(ensure(&server, &limited("users", 48)).await.warnings, [too_many]);
    assert_eq!(ensure(&server, &limited("users", 30)).await.warnings, []);

    let too_many = Warning::Connections { limit: 20, others: 30, available: 47 };
    let ensured = ensure(&server, &limited("inventory", 20)).await;
    assert_eq!(ensured.warnings, [too_many]);
    assert_eq!(
        ensured.warnings[0].to_string(),
        "the connection limit is 20, that of all other services together 30, and the server gives 47"
    );
}

#[tokio::test]
async fn an_admin_without_the_privilege_is_told_so() {
    let postgres = Postgres::start().await;
    for (lost, action) in [("NOCREATEROLE", "make the role"), ("CREATEROLE NOCREATEDB", "make the database")] {
        postgres.sql(&format!("ALTER ROLE admin {lost}")).await;
        let error = postgres.server().ensure(&wanted("inventory")).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.starts_with(&format!(r#"the admin "admin" may not {action} "inventory": permission denied"#)),
            "{text}"
        );
    }
}

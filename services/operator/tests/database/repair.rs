//! Drift, each kind brought about and then mended, once.

use operator::database::{Error, Server, Warning};

use crate::{PASSWORD, ensure, left_to_do, mark, postgres::Postgres, wanted};

/// Makes `inventory`, then this change; ensures that it is undone, which `holds` says, and that nothing else is.
async fn mends(postgres: &Postgres, server: &Server, change: &str, holds: &str) {
    ensure(server, &wanted("inventory")).await;
    assert!(postgres.holds(holds).await, "before: {holds}");
    postgres.sql(change).await;
    assert!(!postgres.holds(holds).await, "{change} changes nothing");
    let done = left_to_do(server, &wanted("inventory")).await;
    assert_eq!(done.len(), 1, "{change}: {done:?}");
    assert!(postgres.holds(holds).await, "{change}: {done:?}");
    assert_eq!(left_to_do(server, &wanted("inventory")).await, [""; 0], "{change}");
}

fn role(condition: &str) -> String {
    format!("EXISTS (SELECT FROM pg_roles WHERE rolname = 'inventory' AND {condition})")
}

fn database(condition: &str) -> String {
    format!("EXISTS (SELECT FROM pg_database WHERE datname = 'inventory' AND {condition})")
}

#[tokio::test]
async fn what_the_role_lost_is_given_back() {
    let postgres = Postgres::start().await;
    let server = postgres.server();
    for (change, holds) in [
        ("ALTER ROLE inventory NOLOGIN", "rolcanlogin"),
        ("ALTER ROLE inventory CONNECTION LIMIT 3", "rolconnlimit = 20"),
        ("ALTER ROLE inventory CONNECTION LIMIT -1", "rolconnlimit = 20"),
        ("ALTER ROLE inventory VALID UNTIL '2001-01-01'", "coalesce(rolvaliduntil, 'infinity') = 'infinity'"),
    ] {
        mends(&postgres, &server, change, &role(holds)).await;
    }
}

#[tokio::test]
async fn what_the_role_was_given_is_taken_away() {
    let postgres = Postgres::start().await;
    for attribute in ["SUPERUSER", "CREATEDB", "CREATEROLE", "REPLICATION", "BYPASSRLS"] {
        let column = match attribute {
            "SUPERUSER" => "NOT rolsuper",
            "CREATEDB" => "NOT rolcreatedb",
            "CREATEROLE" => "NOT rolcreaterole",
            "REPLICATION" => "NOT rolreplication",
            _ => "NOT rolbypassrls",
        };
        let change = format!("ALTER ROLE inventory {attribute}");
        mends(&postgres, &postgres.with_superuser(), &change, &role(column)).await;
    }
    for attribute in ["CREATEDB", "CREATEROLE"] {
        let change = format!("ALTER ROLE inventory {attribute}");
        mends(&postgres, &postgres.server(), &change, &role("NOT rolcreatedb AND NOT rolcreaterole")).await;
    }
}

#[tokio::test]
async fn an_attribute_that_the_admin_may_not_take_away_is_an_error() {
    let postgres = Postgres::start().await;
    ensure(&postgres.server(), &wanted("inventory")).await;
    postgres.sql("ALTER ROLE inventory SUPERUSER").await;
    let error = postgres.server().ensure(&wanted("inventory")).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { action, .. } if action.contains("NOSUPERUSER")), "{error}");
}

#[tokio::test]
async fn memberships_are_ended() {
    let postgres = Postgres::start().await;
    postgres.sql("CREATE ROLE readers; CREATE ROLE chief").await;
    let server = postgres.with_superuser();
    let none = "NOT EXISTS (SELECT FROM pg_auth_members WHERE member = 'inventory'::regrole)";
    ensure(&server, &wanted("inventory")).await;
    mends(&postgres, &server, "GRANT readers TO inventory", none).await;
    mends(&postgres, &server, "GRANT readers TO inventory WITH ADMIN OPTION", none).await;
    // By another grantor.
    postgres.sql("GRANT readers TO chief WITH ADMIN OPTION").await;
    mends(&postgres, &server, "SET ROLE chief; GRANT readers TO inventory", none).await;
}

#[tokio::test]
async fn an_admin_who_is_no_superuser_ends_the_memberships_it_may() {
    let postgres = Postgres::start().await;
    let server = postgres.server();
    ensure(&server, &wanted("users")).await;
    ensure(&server, &wanted("inventory")).await;
    let mut admin = postgres.open("admin", crate::postgres::ADMIN_PASSWORD, "postgres").await.unwrap();
    sqlx::raw_sql("GRANT users TO inventory").execute(&mut admin).await.unwrap();
    assert_eq!(left_to_do(&server, &wanted("inventory")).await, [r#"took the role "inventory" out of "users""#]);

    postgres.sql("CREATE ROLE root SUPERUSER; GRANT root TO inventory").await;
    let ensured = ensure(&server, &wanted("inventory")).await;
    assert_eq!(ensured.done, [""; 0]);
    assert!(ensured.warnings.contains(&Warning::MemberOf(vec!["root".to_owned()])), "{ensured:?}");
}

#[tokio::test]
async fn a_changed_password_is_set_again() {
    let postgres = Postgres::start().await;
    let server = postgres.server();
    for change in ["PASSWORD 'another'", "PASSWORD NULL"] {
        ensure(&server, &wanted("inventory")).await;
        postgres.sql(&format!("ALTER ROLE inventory {change}")).await;
        assert_eq!(left_to_do(&server, &wanted("inventory")).await, [r#"set the password of the role "inventory""#]);
        postgres.open("inventory", PASSWORD, "inventory").await.unwrap();
        assert_eq!(left_to_do(&server, &wanted("inventory")).await, [""; 0]);
    }
}

#[tokio::test]
async fn what_the_database_lost_is_given_back() {
    let postgres = Postgres::start().await;
    let public = "NOT EXISTS (SELECT FROM aclexplode(datacl) WHERE grantee = 0)";
    for server in [postgres.server(), postgres.with_superuser()] {
        for (change, holds) in [
            ("GRANT CONNECT ON DATABASE inventory TO PUBLIC", public),
            ("GRANT TEMPORARY ON DATABASE inventory TO PUBLIC", public),
            (
                "REVOKE CONNECT ON DATABASE inventory FROM inventory",
                "3 = (SELECT count(*) FROM aclexplode(datacl) WHERE grantee = datdba)",
            ),
            ("ALTER DATABASE inventory ALLOW_CONNECTIONS false", "datallowconn"),
            ("ALTER DATABASE inventory CONNECTION LIMIT 0", "datconnlimit = -1"),
            ("ALTER DATABASE inventory IS_TEMPLATE true", "NOT datistemplate"),
        ] {
            mends(&postgres, &server, change, &database(holds)).await;
        }
    }
}

#[tokio::test]
async fn a_database_of_another_owner_is_given_back_to_its_role() {
    let postgres = Postgres::start().await;
    let owned = database("datdba = 'inventory'::regrole");
    mends(&postgres, &postgres.with_superuser(), "ALTER DATABASE inventory OWNER TO postgres", &owned).await;
    mends(&postgres, &postgres.server(), "ALTER DATABASE inventory OWNER TO admin", &owned).await;

    postgres.sql("ALTER DATABASE inventory OWNER TO postgres").await;
    let error = postgres.server().ensure(&wanted("inventory")).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { .. }), "{error}");
    assert!(error.to_string().ends_with("must be owner of database inventory"), "{error}");
}

#[tokio::test]
async fn the_schema_public_is_the_roles_own() {
    let postgres = Postgres::start().await;
    for change in ["GRANT CREATE ON SCHEMA public TO PUBLIC", "ALTER SCHEMA public OWNER TO admin"] {
        let server = postgres.server();
        ensure(&server, &wanted("inventory")).await;
        postgres.sql_in("inventory", change).await;
        assert_eq!(left_to_do(&server, &wanted("inventory")).await.len(), 2, "{change}");
        assert_eq!(left_to_do(&server, &wanted("inventory")).await, [""; 0], "{change}");
        postgres.sql_as("inventory", "CREATE TABLE a (id int)").await.unwrap();
        postgres.sql_as("inventory", "DROP TABLE a").await.unwrap();
    }
    // What the service does with it is its business.
    postgres.sql_as("inventory", "DROP SCHEMA public").await.unwrap();
    assert_eq!(left_to_do(&postgres.server(), &wanted("inventory")).await, [""; 0]);
}

#[tokio::test]
async fn a_lost_mark_is_written_again_where_the_other_one_tells_whose_it_is() {
    let postgres = Postgres::start().await;
    let server = postgres.server();
    let mark = mark("inventory");
    let (on_role, on_database) = (
        role(&format!("shobj_description(oid, 'pg_authid') = '{mark}'")),
        database(&format!("shobj_description(oid, 'pg_database') = '{mark}'")),
    );
    for text in ["NULL", "'ask Ada'"] {
        let lose = |kind: &str| format!("COMMENT ON {kind} inventory IS {text}");
        mends(&postgres, &server, &lose("ROLE"), &on_role).await;
        mends(&postgres, &server, &lose("DATABASE"), &on_database).await;
    }
}

#[tokio::test]
async fn without_either_mark_it_is_nobodys() {
    let postgres = Postgres::start().await;
    let server = postgres.server();
    ensure(&server, &wanted("inventory")).await;
    postgres.sql("COMMENT ON ROLE inventory IS NULL; COMMENT ON DATABASE inventory IS NULL").await;
    assert!(matches!(server.ensure(&wanted("inventory")).await, Err(Error::NotOurs(_))));
}

#[tokio::test]
async fn what_was_dropped_is_made_again() {
    let postgres = Postgres::start().await;
    let server = postgres.server();
    ensure(&server, &wanted("inventory")).await;
    postgres.sql("DROP DATABASE inventory").await;
    let done = left_to_do(&server, &wanted("inventory")).await;
    assert!(done.contains(&r#"made the database "inventory""#.to_owned()), "{done:?}");

    postgres.sql_in("inventory", "REASSIGN OWNED BY inventory TO admin; DROP ROLE inventory").await;
    let done = left_to_do(&server, &wanted("inventory")).await;
    assert!(done.contains(&r#"made the role "inventory""#.to_owned()), "{done:?}");
    postgres.sql_as("inventory", "CREATE TABLE a (id int)").await.unwrap();
    assert_eq!(left_to_do(&server, &wanted("inventory")).await, [""; 0]);
}

#[tokio::test]
async fn the_remains_of_a_database_are_dropped_and_it_is_made_again() {
    let postgres = Postgres::start().await;
    let server = postgres.server();
    ensure(&server, &wanted("inventory")).await;
    // What a crash in the midst of DROP DATABASE leaves.
    postgres.sql("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'inventory'").await;
    let done = left_to_do(&server, &wanted("inventory")).await;
    assert!(done.contains(&r#"dropped the database "inventory""#.to_owned()), "{done:?}");
    assert_eq!(left_to_do(&server, &wanted("inventory")).await, [""; 0]);
    postgres.sql_as("inventory", "CREATE TABLE a (id int)").await.unwrap();
}

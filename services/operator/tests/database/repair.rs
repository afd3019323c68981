//! Repair of drift: each kind is caused and then repaired by one change.

use operator::database::{Error, Server, Warning};

use crate::{PASSWORD, changes, ensure, owner, postgres::Postgres, spec};

/// Creates `inventory`, applies `change`, and checks that one change repairs it, so that `holds` is true again.
async fn repairs(postgres: &Postgres, server: &Server, change: &str, holds: &str) {
    ensure(server, &spec("inventory")).await;
    assert!(postgres.holds(holds).await, "before: {holds}");
    postgres.sql(change).await;
    assert!(!postgres.holds(holds).await, "{change} changes nothing");
    let done = changes(server, &spec("inventory")).await;
    assert_eq!(done.len(), 1, "{change}: {done:?}");
    assert!(postgres.holds(holds).await, "{change}: {done:?}");
    assert_eq!(changes(server, &spec("inventory")).await, [""; 0], "{change}");
}

fn role(condition: &str) -> String {
    format!("EXISTS (SELECT FROM pg_roles WHERE rolname = 'inventory' AND {condition})")
}

fn database(condition: &str) -> String {
    format!("EXISTS (SELECT FROM pg_database WHERE datname = 'inventory' AND {condition})")
}

#[tokio::test]
async fn lost_role_attributes_are_restored() {
    let postgres = Postgres::shared().await;
    let server = postgres.server();
    for (change, holds) in [
        ("ALTER ROLE inventory NOLOGIN", "rolcanlogin"),
        ("ALTER ROLE inventory CONNECTION LIMIT 3", "rolconnlimit = 20"),
        ("ALTER ROLE inventory CONNECTION LIMIT -1", "rolconnlimit = 20"),
        ("ALTER ROLE inventory VALID UNTIL '2001-01-01'", "coalesce(rolvaliduntil, 'infinity') = 'infinity'"),
    ] {
        repairs(&postgres, &server, change, &role(holds)).await;
    }
}

#[tokio::test]
async fn excess_role_attributes_are_removed() {
    let postgres = Postgres::shared().await;
    for attribute in ["SUPERUSER", "CREATEDB", "CREATEROLE", "REPLICATION", "BYPASSRLS"] {
        let column = match attribute {
            "SUPERUSER" => "NOT rolsuper",
            "CREATEDB" => "NOT rolcreatedb",
            "CREATEROLE" => "NOT rolcreaterole",
            "REPLICATION" => "NOT rolreplication",
            _ => "NOT rolbypassrls",
        };
        let change = format!("ALTER ROLE inventory {attribute}");
        repairs(&postgres, &postgres.with_superuser(), &change, &role(column)).await;
    }
    for attribute in ["CREATEDB", "CREATEROLE"] {
        let change = format!("ALTER ROLE inventory {attribute}");
        repairs(&postgres, &postgres.server(), &change, &role("NOT rolcreatedb AND NOT rolcreaterole")).await;
    }
}

#[tokio::test]
async fn an_attribute_the_admin_cannot_remove_is_an_error() {
    let postgres = Postgres::shared().await;
    ensure(&postgres.server(), &spec("inventory")).await;
    postgres.sql("ALTER ROLE inventory SUPERUSER").await;
    let error = postgres.server().ensure(&spec("inventory")).await.unwrap_err();
    assert!(matches!(&error, Error::PrivilegeMissing { action, .. } if action.contains("NOSUPERUSER")), "{error}");
}

#[tokio::test]
async fn memberships_are_revoked() {
    let postgres = Postgres::shared().await;
    postgres.sql("CREATE ROLE readers; CREATE ROLE chief").await;
    let server = postgres.with_superuser();
    let none = "NOT EXISTS (SELECT FROM pg_auth_members WHERE member = 'inventory'::regrole)";
    ensure(&server, &spec("inventory")).await;
    repairs(&postgres, &server, "GRANT readers TO inventory", none).await;
    repairs(&postgres, &server, "GRANT readers TO inventory WITH ADMIN OPTION", none).await;
    // By another grantor.
    postgres.sql("GRANT readers TO chief WITH ADMIN OPTION").await;
    repairs(&postgres, &server, "SET ROLE chief; GRANT readers TO inventory", none).await;
}

#[tokio::test]
async fn an_admin_revokes_the_memberships_it_can() {
    let postgres = Postgres::shared().await;
    let server = postgres.server();
    ensure(&server, &spec("users")).await;
    ensure(&server, &spec("inventory")).await;
    let mut admin = postgres.open("admin", crate::postgres::ADMIN_PASSWORD, "postgres").await.unwrap();
    sqlx::raw_sql("GRANT users TO inventory").execute(&mut admin).await.unwrap();
    assert_eq!(changes(&server, &spec("inventory")).await, [r#"revoked membership of role "inventory" in "users""#]);

    postgres.sql("CREATE ROLE root SUPERUSER; GRANT root TO inventory").await;
    let report = ensure(&server, &spec("inventory")).await;
    assert_eq!(report.changes, [""; 0]);
    assert!(report.warnings.contains(&Warning::MemberOf(vec!["root".to_owned()])), "{report:?}");
}

#[tokio::test]
async fn a_changed_password_is_set_again() {
    let postgres = Postgres::shared().await;
    let server = postgres.server();
    for change in ["PASSWORD 'another'", "PASSWORD NULL"] {
        ensure(&server, &spec("inventory")).await;
        postgres.sql(&format!("ALTER ROLE inventory {change}")).await;
        assert_eq!(changes(&server, &spec("inventory")).await, [r#"set the password of role "inventory""#]);
        postgres.open("inventory", PASSWORD, "inventory").await.unwrap();
        assert_eq!(changes(&server, &spec("inventory")).await, [""; 0]);
    }
}

#[tokio::test]
async fn database_drift_is_repaired() {
    let postgres = Postgres::shared().await;
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
            repairs(&postgres, &server, change, &database(holds)).await;
        }
    }
}

#[tokio::test]
async fn the_database_owner_is_restored() {
    let postgres = Postgres::shared().await;
    let owned = database("datdba = 'inventory'::regrole");
    repairs(&postgres, &postgres.with_superuser(), "ALTER DATABASE inventory OWNER TO postgres", &owned).await;
    repairs(&postgres, &postgres.server(), "ALTER DATABASE inventory OWNER TO admin", &owned).await;

    postgres.sql("ALTER DATABASE inventory OWNER TO postgres").await;
    let error = postgres.server().ensure(&spec("inventory")).await.unwrap_err();
    assert!(matches!(&error, Error::PrivilegeMissing { .. }), "{error}");
    assert!(error.to_string().ends_with("must be owner of database inventory"), "{error}");
}

#[tokio::test]
async fn the_schema_public_is_the_roles_own() {
    let postgres = Postgres::shared().await;
    for change in ["GRANT CREATE ON SCHEMA public TO PUBLIC", "ALTER SCHEMA public OWNER TO admin"] {
        let server = postgres.server();
        ensure(&server, &spec("inventory")).await;
        postgres.sql_in("inventory", change).await;
        assert_eq!(changes(&server, &spec("inventory")).await.len(), 2, "{change}");
        assert_eq!(changes(&server, &spec("inventory")).await, [""; 0], "{change}");
        postgres.sql_as("inventory", "CREATE TABLE a (id int)").await.unwrap();
        postgres.sql_as("inventory", "DROP TABLE a").await.unwrap();
    }
    // The service may drop it.
    postgres.sql_as("inventory", "DROP SCHEMA public").await.unwrap();
    assert_eq!(changes(&postgres.server(), &spec("inventory")).await, [""; 0]);
}

#[tokio::test]
async fn a_lost_ownership_comment_is_restored_from_the_other() {
    let postgres = Postgres::shared().await;
    let server = postgres.server();
    let owner = owner("inventory");
    let (on_role, on_database) = (
        role(&format!("shobj_description(oid, 'pg_authid') = '{owner}'")),
        database(&format!("shobj_description(oid, 'pg_database') = '{owner}'")),
    );
    for text in ["NULL", "'ask Ada'"] {
        let lose = |kind: &str| format!("COMMENT ON {kind} inventory IS {text}");
        repairs(&postgres, &server, &lose("ROLE"), &on_role).await;
        repairs(&postgres, &server, &lose("DATABASE"), &on_database).await;
    }
}

#[tokio::test]
async fn without_ownership_comments_nothing_is_owned() {
    let postgres = Postgres::shared().await;
    let server = postgres.server();
    ensure(&server, &spec("inventory")).await;
    postgres.sql("COMMENT ON ROLE inventory IS NULL; COMMENT ON DATABASE inventory IS NULL").await;
    assert!(matches!(server.ensure(&spec("inventory")).await, Err(Error::NotOwned(_))));
}

#[tokio::test]
async fn a_dropped_role_or_database_is_recreated() {
    let postgres = Postgres::shared().await;
    let server = postgres.server();
    ensure(&server, &spec("inventory")).await;
    postgres.sql("DROP DATABASE inventory").await;
    let done = changes(&server, &spec("inventory")).await;
    assert!(done.contains(&r#"created database "inventory""#.to_owned()), "{done:?}");

    postgres.sql_in("inventory", "REASSIGN OWNED BY inventory TO admin; DROP ROLE inventory").await;
    let done = changes(&server, &spec("inventory")).await;
    assert!(done.contains(&r#"created role "inventory""#.to_owned()), "{done:?}");
    postgres.sql_as("inventory", "CREATE TABLE a (id int)").await.unwrap();
    assert_eq!(changes(&server, &spec("inventory")).await, [""; 0]);
}

#[tokio::test]
async fn a_half_dropped_database_is_recreated() {
    let postgres = Postgres::shared().await;
    let server = postgres.server();
    ensure(&server, &spec("inventory")).await;
    // A crash during DROP DATABASE leaves this behind.
    postgres.sql("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'inventory'").await;
    let done = changes(&server, &spec("inventory")).await;
    assert!(done.contains(&r#"dropped database "inventory""#.to_owned()), "{done:?}");
    assert_eq!(changes(&server, &spec("inventory")).await, [""; 0]);
    postgres.sql_as("inventory", "CREATE TABLE a (id int)").await.unwrap();
}

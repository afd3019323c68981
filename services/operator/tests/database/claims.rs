//! What is somebody else's is left alone.

use operator::database::{Adopt, Error, Mark, Wanted};

use crate::{PASSWORD, ensure, left_to_do, mark, postgres::Postgres, wanted};

/// All that could change about a role and a database of this name.
async fn state(postgres: &Postgres) -> Vec<String> {
    let query = "SELECT row_to_json(a)::text || coalesce(shobj_description(oid, 'pg_authid'), '')
                 FROM pg_authid a WHERE rolname = 'inventory' UNION ALL
                 SELECT (to_jsonb(d) - 'datfrozenxid' - 'datminmxid')::text || coalesce(shobj_description(oid, 'pg_database'), '')
                 FROM pg_database d WHERE datname = 'inventory'";
    postgres.list(query).await
}

async fn refuses(postgres: &Postgres, wanted: &Wanted) -> Error {
    let before = state(postgres).await;
    let mut errors = Vec::new();
    for server in [postgres.server(), postgres.with_superuser()] {
        errors.push(server.ensure(wanted).await.unwrap_err());
        assert!(server.remove(&wanted.name, &wanted.mark).await.is_err());
    }
    assert_eq!(state(postgres).await, before);
    assert!(errors.iter().all(Error::is_conflict), "{errors:?}");
    errors.remove(0)
}

#[tokio::test]
async fn an_unmarked_role_or_database_is_not_adopted() {
    let postgres = Postgres::start().await;
    for (make, drop) in [
        ("CREATE ROLE inventory LOGIN", "DROP ROLE inventory"),
        ("CREATE DATABASE inventory", "DROP DATABASE inventory"),
        ("CREATE DATABASE inventory OWNER admin", "DROP DATABASE inventory"),
        (
            "CREATE ROLE inventory; CREATE DATABASE inventory OWNER inventory; COMMENT ON ROLE inventory IS 'ask Ada'",
            "DROP DATABASE inventory; DROP ROLE inventory",
        ),
    ] {
        postgres.sql(make).await;
        let error = refuses(&postgres, &wanted("inventory")).await;
        assert!(matches!(error, Error::NotOurs(_)), "{make}: {error}");
        postgres.sql(drop).await;
    }
}

#[tokio::test]
async fn an_unmarked_database_is_not_adopted_though_the_role_is_ours() {
    let postgres = Postgres::start().await;
    ensure(&postgres.server(), &wanted("inventory")).await;
    postgres.sql("DROP DATABASE inventory; CREATE DATABASE inventory OWNER admin").await;
    let error = refuses(&postgres, &wanted("inventory")).await;
    assert!(error.to_string().starts_with(r#"the database "inventory" was not made by Hedgerow"#), "{error}");
}

#[tokio::test]
async fn the_second_object_to_want_a_name_is_told_who_has_it() {
    let postgres = Postgres::start().await;
    ensure(&postgres.server(), &wanted("inventory")).await;
    for second in [
        Mark::new("here", "shop", "stock").unwrap(),
        Mark::new("here", "staging", "inventory").unwrap(),
        Mark::new("elsewhere", "shop", "inventory").unwrap(),
    ] {
        let error = refuses(&postgres, &Wanted { mark: second, ..wanted("inventory") }).await;
        assert!(matches!(&error, Error::TakenBy { mark: taken, .. } if *taken == mark("inventory")));
        let text = r#"the role "inventory" belongs to shop/inventory of installation here"#;
        assert!(error.to_string().starts_with(text), "{error}");
    }
}

#[tokio::test]
async fn the_servers_own_names_are_refused() {
    let postgres = Postgres::start().await;
    postgres.sql("CREATE ROLE chief SUPERUSER").await;
    for name in ["postgres", "template0", "template1", "admin", "chief"] {
        for adopt in [Adopt::Nothing, Adopt::Unmarked] {
            let error = postgres.server().ensure(&Wanted { adopt, ..wanted(name) }).await.unwrap_err();
            assert!(matches!(error, Error::NotOurs(_)), "{error}");
        }
    }
    for name in ["pg_inventory", "public"] {
        assert!(matches!(postgres.server().ensure(&wanted(name)).await, Err(Error::Sql { .. })));
    }
}

#[tokio::test]
async fn what_is_to_be_adopted_is() {
    let postgres = Postgres::start().await;
    let server = postgres.with_superuser();
    postgres.sql("CREATE DATABASE inventory; CREATE ROLE inventory CREATEDB").await;
    postgres.sql_in("inventory", "CREATE TABLE kept (id int)").await;
    assert!(server.ensure(&wanted("inventory")).await.is_err());
    ensure(&server, &Wanted { adopt: Adopt::Unmarked, ..wanted("inventory") }).await;
    // From then on it is ours.
    assert_eq!(left_to_do(&server, &wanted("inventory")).await, [""; 0]);
    postgres.open("inventory", PASSWORD, "inventory").await.unwrap();
    postgres.sql_in("inventory", "DROP TABLE kept").await;
}

#[tokio::test]
async fn anothers_is_adopted_only_by_its_mark() {
    let postgres = Postgres::start().await;
    let server = postgres.server();
    ensure(&server, &wanted("inventory")).await;
    let heir = |adopt| Wanted { mark: Mark::new("new", "shop", "inventory").unwrap(), adopt, ..wanted("inventory") };
    for adopt in [Adopt::Nothing, Adopt::Unmarked, Adopt::Marked(mark("stock"))] {
        assert!(matches!(server.ensure(&heir(adopt)).await, Err(Error::TakenBy { .. })));
    }
    ensure(&server, &heir(Adopt::Marked(mark("inventory")))).await;
    assert_eq!(left_to_do(&server, &heir(Adopt::Nothing)).await, [""; 0]);
    assert!(matches!(server.ensure(&wanted("inventory")).await, Err(Error::TakenBy { .. })));
}

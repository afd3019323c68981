//! Roles and databases of others are left alone.

use operator::database::{Adoption, DatabaseSpec, Error, Owner};

use crate::{PASSWORD, changes, ensure, owner, postgres::Postgres, spec};

/// The complete state of the role and the database.
async fn state(postgres: &Postgres) -> Vec<String> {
    let query = "SELECT row_to_json(a)::text || coalesce(shobj_description(oid, 'pg_authid'), '')
                 FROM pg_authid a WHERE rolname = 'inventory' UNION ALL
                 SELECT (to_jsonb(d) - 'datfrozenxid' - 'datminmxid')::text || coalesce(shobj_description(oid, 'pg_database'), '')
                 FROM pg_database d WHERE datname = 'inventory'";
    postgres.list(query).await
}

async fn refuses(postgres: &Postgres, spec: &DatabaseSpec) -> Error {
    let before = state(postgres).await;
    let mut errors = Vec::new();
    for server in [postgres.server(), postgres.with_superuser()] {
        errors.push(server.ensure(spec).await.unwrap_err());
        assert!(server.remove(&spec.name, &spec.owner).await.is_err());
    }
    assert_eq!(state(postgres).await, before);
    assert!(errors.iter().all(Error::is_conflict), "{errors:?}");
    errors.remove(0)
}

#[tokio::test]
async fn an_unowned_role_or_database_is_not_adopted() {
    let postgres = Postgres::shared().await;
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
        let error = refuses(&postgres, &spec("inventory")).await;
        assert!(matches!(error, Error::NotOwned(_)), "{make}: {error}");
        postgres.sql(drop).await;
    }
}

#[tokio::test]
async fn an_unowned_database_is_refused_even_if_the_role_is_owned() {
    let postgres = Postgres::shared().await;
    ensure(&postgres.server(), &spec("inventory")).await;
    postgres.sql("DROP DATABASE inventory; CREATE DATABASE inventory OWNER admin").await;
    let error = refuses(&postgres, &spec("inventory")).await;
    assert!(error.to_string().starts_with(r#"the database "inventory" was not created by Hedgerow"#), "{error}");
}

#[tokio::test]
async fn the_second_object_learns_who_owns_the_name() {
    let postgres = Postgres::shared().await;
    ensure(&postgres.server(), &spec("inventory")).await;
    for second in [
        Owner::new("home", "here", "shop", "stock").unwrap(),
        Owner::new("home", "here", "staging", "inventory").unwrap(),
        Owner::new("home", "elsewhere", "shop", "inventory").unwrap(),
        Owner::new("away", "here", "shop", "inventory").unwrap(),
    ] {
        let error = refuses(&postgres, &DatabaseSpec { owner: second, ..spec("inventory") }).await;
        assert!(matches!(&error, Error::OwnedByOther { owner: taken, .. } if **taken == owner("inventory")));
        let text = r#"the role "inventory" belongs to shop/inventory of installation here in cluster home"#;
        assert!(error.to_string().starts_with(text), "{error}");
    }
}

#[tokio::test]
async fn reserved_names_are_refused() {
    let postgres = Postgres::shared().await;
    postgres.sql("CREATE ROLE chief SUPERUSER").await;
    for name in ["postgres", "template0", "template1", "admin", "chief"] {
        for adoption in [Adoption::None, Adoption::Unowned] {
            let error = postgres.server().ensure(&DatabaseSpec { adoption, ..spec(name) }).await.unwrap_err();
            assert!(matches!(error, Error::NotOwned(_)), "{error}");
        }
    }
    for name in ["pg_inventory", "public"] {
        assert!(matches!(postgres.server().ensure(&spec(name)).await, Err(Error::Sql { .. })));
    }
}

#[tokio::test]
async fn an_unowned_database_is_adopted_on_request() {
    let postgres = Postgres::shared().await;
    let server = postgres.with_superuser();
    postgres.sql("CREATE DATABASE inventory; CREATE ROLE inventory CREATEDB").await;
    postgres.sql_in("inventory", "CREATE TABLE kept (id int)").await;
    assert!(server.ensure(&spec("inventory")).await.is_err());
    ensure(&server, &DatabaseSpec { adoption: Adoption::Unowned, ..spec("inventory") }).await;
    // It is owned from then on.
    assert_eq!(changes(&server, &spec("inventory")).await, [""; 0]);
    postgres.open("inventory", PASSWORD, "inventory").await.unwrap();
    postgres.sql_in("inventory", "DROP TABLE kept").await;
}

#[tokio::test]
async fn a_database_is_adopted_only_from_its_named_owner() {
    let postgres = Postgres::shared().await;
    let server = postgres.server();
    ensure(&server, &spec("inventory")).await;
    let heir = |adoption| DatabaseSpec {
        owner: Owner::new("away", "here", "shop", "inventory").unwrap(),
        adoption,
        ..spec("inventory")
    };
    for adoption in [Adoption::None, Adoption::Unowned, Adoption::OwnedBy(owner("stock"))] {
        assert!(matches!(server.ensure(&heir(adoption)).await, Err(Error::OwnedByOther { .. })));
    }
    ensure(&server, &heir(Adoption::OwnedBy(owner("inventory")))).await;
    assert_eq!(changes(&server, &heir(Adoption::None)).await, [""; 0]);
    assert!(matches!(server.ensure(&spec("inventory")).await, Err(Error::OwnedByOther { .. })));
}

/// Writes the comments of the first versions, which name no cluster.
async fn forget_cluster(postgres: &Postgres) {
    let comment = owner("inventory").without_cluster();
    postgres
        .sql(&format!("COMMENT ON ROLE inventory IS '{comment}'; COMMENT ON DATABASE inventory IS '{comment}'"))
        .await;
}

#[tokio::test]
async fn a_comment_without_a_cluster_is_taken_over_once() {
    let postgres = Postgres::shared().await;
    for server in [postgres.server(), postgres.with_superuser()] {
        ensure(&server, &spec("inventory")).await;
        forget_cluster(&postgres).await;
        assert_eq!(
            changes(&server, &spec("inventory")).await,
            [
                r#"set the ownership comment of role "inventory""#,
                r#"set the ownership comment of database "inventory""#
            ]
        );
        assert_eq!(changes(&server, &spec("inventory")).await, [""; 0]);
        let away = Owner::new("away", "here", "shop", "inventory").unwrap();
        refuses(&postgres, &DatabaseSpec { owner: away, ..spec("inventory") }).await;
        server.remove("inventory", &owner("inventory")).await.unwrap();
    }
}

#[tokio::test]
async fn a_comment_without_a_cluster_fits_only_who_knows_the_password() {
    let postgres = Postgres::shared().await;
    ensure(&postgres.server(), &spec("inventory")).await;
    forget_cluster(&postgres).await;
    // The object of the same name in another cluster, with a password of its own.
    let away = Owner::new("away", "here", "shop", "inventory").unwrap();
    let away = DatabaseSpec { owner: away, password: "another".to_owned(), ..spec("inventory") };
    let error = refuses(&postgres, &away).await;
    let text = r#"the role "inventory" belongs to shop/inventory of installation here in an unknown cluster"#;
    assert!(error.to_string().starts_with(text), "{error}");
    for other in [owner("stock"), Owner::new("home", "elsewhere", "shop", "inventory").unwrap()] {
        refuses(&postgres, &DatabaseSpec { owner: other, ..spec("inventory") }).await;
    }
    postgres.open("inventory", PASSWORD, "inventory").await.unwrap();
}

#[tokio::test]
async fn an_interrupted_takeover_is_completed() {
    let postgres = Postgres::shared().await;
    ensure(&postgres.server(), &spec("inventory")).await;
    forget_cluster(&postgres).await;
    postgres.sql(&format!("COMMENT ON ROLE inventory IS '{}'", owner("inventory"))).await;
    assert_eq!(
        changes(&postgres.server(), &spec("inventory")).await,
        [r#"set the ownership comment of database "inventory""#]
    );
}

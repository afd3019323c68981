//! Databases, servers and Secrets of others are left alone.

use embedded_postgres::Server;
use serde_json::{Value, json};

use super::{
    super::{Fixture, OBJECT},
    ADMIN, CREDENTIALS, admin_secret, assert_condition, encoded, identifier, list, postgres, run, state,
};

#[tokio::test]
async fn the_ownership_comment_names_the_cluster() {
    let postgres = postgres();
    let mut fixture = Fixture::with_server(&postgres);
    let status = fixture.reconcile().await;
    assert_condition(&status, "DatabaseReady", ("True", "DatabaseReady"));
    let comment = "hedgerow.dev/microservice the-cluster/test/default/orders";
    assert_eq!(list(&postgres, "SELECT shobj_description('orders'::regrole, 'pg_authid')").await, [comment]);
    let secret = fixture.server.get(CREDENTIALS).expect("a Secret");
    assert_eq!(secret["metadata"]["annotations"]["hedgerow.dev/mark"], comment);
}

#[tokio::test]
async fn a_second_cluster_of_the_same_names_is_refused() {
    let postgres = postgres();
    let mut production = Fixture::with_server(&postgres);
    production.roll_out().await;
    let before = state(&postgres).await;
    let mut staging = Fixture::with_server(&postgres);
    let uid = json!({ "metadata": { "name": "kube-system", "uid": "another-cluster" } });
    staging.server.put("/api/v1/namespaces/kube-system", uid);
    let message = assert_condition(&staging.reconcile().await, "Stalled", ("True", "DatabaseTaken"));
    assert!(message.contains("default/orders of installation test in cluster the-cluster"), "{message}");
    assert_eq!(state(&postgres).await, before, "the password is that of production");
    assert!(staging.server.get(CREDENTIALS).is_none());
}

#[tokio::test]
async fn comments_of_the_first_versions_are_taken_over() {
    let postgres = postgres();
    let mut fixture = Fixture::with_server(&postgres);
    fixture.roll_out().await;
    let (mark, former) =
        ("hedgerow.dev/microservice the-cluster/test/default/orders", "hedgerow.dev/microservice test/default/orders");
    for kind in ["ROLE", "DATABASE"] {
        run(&postgres, &format!("COMMENT ON {kind} orders IS '{former}'")).await;
    }
    let mut secret = fixture.server.get(CREDENTIALS).expect("a Secret");
    secret["metadata"]["annotations"] = json!({ "hedgerow.dev/mark": former });
    fixture.server.put(CREDENTIALS, secret);

    // A new object of the same name in another cluster comes first.
    let mut staging = Fixture::with_server(&postgres);
    let uid = json!({ "metadata": { "name": "kube-system", "uid": "another-cluster" } });
    staging.server.put("/api/v1/namespaces/kube-system", uid);
    assert_condition(&staging.reconcile().await, "Stalled", ("True", "DatabaseTaken"));

    fixture.context.databases.forget("the-uid");
    let status = fixture.reconcile().await;
    assert_condition(&status, "Ready", ("True", "Ready"));
    assert_eq!(list(&postgres, "SELECT shobj_description('orders'::regrole, 'pg_authid')").await, [mark]);
    let secret = fixture.server.get(CREDENTIALS).expect("a Secret");
    assert_eq!(secret["metadata"]["annotations"]["hedgerow.dev/mark"], mark);
}

#[tokio::test]
async fn another_server_is_left_alone_until_it_is_accepted() {
    let (first, second) = (postgres(), postgres());
    let mut fixture = Fixture::with_server(&first);
    fixture.roll_out().await;
    let secret = fixture.server.get(CREDENTIALS).expect("a Secret")["data"].clone();

    fixture.serve(&second, "");
    let (old, new) = (identifier(&first).await, identifier(&second).await);
    for forget in [false, true] {
        if forget {
            let mut object = fixture.server.get(OBJECT).expect("the object");
            object["status"] = Value::Null;
            fixture.server.put(OBJECT, object);
        }
        let status = fixture.reconcile().await;
        let message = assert_condition(&status, "Stalled", ("True", "ServerChanged"));
        assert!(message.contains(&old) && message.contains(&new), "{message}");
        assert_condition(&status, "DatabaseReady", ("False", "ServerChanged"));
        assert_eq!(state(&second).await, [""; 0], "nothing is created there");
        assert_eq!(fixture.server.get(CREDENTIALS).expect("a Secret")["data"], secret, "nothing is written");
    }

    fixture.annotate("hedgerow.dev/accept-server", &old);
    assert_condition(&fixture.reconcile().await, "Stalled", ("True", "ServerChanged"));
    fixture.annotate("hedgerow.dev/accept-server", &new);
    let status = fixture.reconcile().await;
    assert_condition(&status, "DatabaseReady", ("True", "DatabaseReady"));
    assert_eq!(status["database"]["systemIdentifier"], new);
    assert_eq!(state(&second).await.len(), 2);

    // The old server would now be the changed one.
    fixture.serve(&first, "");
    assert_condition(&fixture.reconcile().await, "Stalled", ("True", "ServerChanged"));
}

#[tokio::test]
async fn only_the_servers_secret_permits_an_adoption() {
    let postgres = postgres();
    let mut fixture = Fixture::with_server(&postgres);
    run(&postgres, "CREATE ROLE orders LOGIN PASSWORD 'theirs'").await;
    run(&postgres, "CREATE DATABASE orders OWNER orders").await;
    let before = list(&postgres, "SELECT rolpassword FROM pg_authid WHERE rolname = 'orders'").await;
    fixture.annotate("hedgerow.dev/adopt", "unmarked");
    for adopt in ["", "orders=default/users", "users=default/orders", "orders=default/orders2"] {
        fixture.serve(&postgres, adopt);
        let message = assert_condition(&fixture.reconcile().await, "Stalled", ("True", "DatabaseNotOurs"));
        assert!(message.contains("list orders=default/orders under `adopt`"), "{message}");
        assert_eq!(list(&postgres, "SELECT rolpassword FROM pg_authid WHERE rolname = 'orders'").await, before);
        assert!(fixture.server.get(CREDENTIALS).is_none(), "no credentials are made for it");
    }
    fixture.serve(&postgres, "users=default/users\norders=default/orders\n");
    assert_condition(&fixture.reconcile().await, "DatabaseReady", ("True", "DatabaseReady"));
}

#[tokio::test]
async fn a_foreign_credentials_secret_changes_nothing_in_postgres() {
    let postgres = postgres();
    let mut fixture = Fixture::with_server(&postgres);
    fixture.roll_out().await;
    let before = state(&postgres).await;
    let mut foreign = fixture.server.get(CREDENTIALS).expect("a Secret");
    foreign["metadata"]["annotations"] = Value::Null;
    foreign["data"]["password"] = encoded("theirs");
    fixture.server.put(CREDENTIALS, foreign.clone());
    fixture.context.databases.forget("the-uid");
    assert_condition(&fixture.reconcile().await, "Stalled", ("True", "Conflict"));
    assert_eq!(state(&postgres).await, before);
    assert_eq!(fixture.server.get(CREDENTIALS).expect("a Secret")["data"], foreign["data"]);
}

#[tokio::test]
async fn a_foreign_database_gets_no_credentials() {
    let postgres = postgres();
    let mut fixture = Fixture::with_server(&postgres);
    run(&postgres, "CREATE ROLE orders LOGIN PASSWORD 'theirs'").await;
    let before = state(&postgres).await;
    assert_condition(&fixture.reconcile().await, "Stalled", ("True", "DatabaseNotOurs"));
    assert!(fixture.server.get(CREDENTIALS).is_none());
    assert_eq!(state(&postgres).await, before);
}

#[tokio::test]
async fn an_unreadable_identifier_still_shows_a_missing_database() {
    let (first, second) = (postgres(), postgres());
    for server in [&first, &second] {
        run(server, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC").await;
        run(server, "CREATE ROLE keeper LOGIN CREATEDB CREATEROLE PASSWORD 'x'").await;
    }
    let mut fixture = Fixture::with_server(&first);
    let serve = |fixture: &Fixture, server: &Server| {
        fixture.server.put(ADMIN, admin_secret(&server.url("keeper", "x", "postgres"), ""));
        fixture.context.databases.forget("the-uid");
    };
    serve(&fixture, &first);
    let message = fixture.until("DatabaseReady", ("True", "DatabaseReady")).await;
    assert!(message.contains("may not execute pg_control_system()"), "{message}");
    let status = fixture.server.get(OBJECT).expect("the object")["status"].clone();
    assert_eq!(status["database"]["systemIdentifier"], "unknown");
    serve(&fixture, &second);
    fixture.until("Stalled", ("True", "ServerChanged")).await;
    assert_eq!(state(&second).await, [""; 0]);
    fixture.annotate("hedgerow.dev/accept-server", "unknown");
    fixture.until("DatabaseReady", ("True", "DatabaseReady")).await;
}

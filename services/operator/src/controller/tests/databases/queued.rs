//! Objects that wait for others at their server.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::Method;
use k8s_openapi::ByteString;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, raw_sql};
use test_support::process::{TIMEOUT, eventually};
use tokio::{net::TcpListener, time};

use super::{
    super::{super::finalize, DEPLOYMENT, Fixture, OBJECT, reconcile},
    ADMIN, admin_secret, assert_condition, list, postgres,
};
use crate::{
    controller::servers::Access,
    database::{Adoption, DatabaseSpec, Error, Owner, Server},
};
use api::{Microservice, finalizers};

impl Fixture {
    /// The server of the objects, and the access to it.
    pub(super) fn access(&self) -> (Server, Arc<Access>) {
        let data = self.server.get(ADMIN).expect("the Secret")["data"].clone();
        let data: BTreeMap<String, ByteString> = serde_json::from_value(data).expect("base64");
        let url = String::from_utf8(data["url"].0.clone()).expect("text");
        (Server::new(&url, None).expect("a server"), self.context.servers.access(&data))
    }
}

#[tokio::test]
async fn a_queue_at_the_server_does_not_change_ready() {
    let postgres = postgres();
    let mut fixture = Fixture::with_server(&postgres);
    fixture.roll_out().await;
    let before = fixture.reconcile().await;
    let (server, access) = fixture.access();
    let permit = access.enter(&server, "users").await.expect("the only permit");
    fixture.context.databases.forget("the-uid");
    drop(fixture.server.take_writes());
    assert_eq!(fixture.reconcile().await, before);
    let writes = fixture.server.take_writes();
    assert!(!writes.iter().any(|(method, path)| method == Method::PATCH && path.contains("/status")), "{writes:?}");

    let queue = &fixture.context.queue;
    queue.add("orders");
    let turn = queue.next().await;
    let object: Microservice = serde_json::from_value(fixture.server.get(OBJECT).expect("the object")).expect("one");
    let next = reconcile(Arc::new(object), fixture.context.clone()).await.expect("the reconcile succeeds");
    turn.end(next);
    let turn = time::timeout(Duration::from_secs(5), queue.next()).await.expect("it is tried again soon");
    drop(turn);
    assert_eq!(queue.waiting().0, 0);
    drop(permit);
    assert_eq!(queue.waiting().0, 1, "its turn has come");
    let status = fixture.reconcile().await;
    assert_condition(&status, "Ready", ("True", "Ready"));
}

#[tokio::test]
async fn a_new_database_that_waits_is_not_ready() {
    let postgres = postgres();
    let mut fixture = Fixture::with_server(&postgres);
    let (server, access) = fixture.access();
    let permit = access.enter(&server, "users").await.expect("the only permit");
    let status = fixture.reconcile().await;
    assert_condition(&status, "DatabaseReady", ("False", "ServerBusy"));
    drop(permit);
    let status = fixture.reconcile().await;
    assert_condition(&status, "DatabaseReady", ("True", "DatabaseReady"));
}

#[tokio::test]
async fn a_changed_database_that_waits_is_not_ready() {
    let postgres = postgres();
    let mut fixture = Fixture::with_server(&postgres);
    fixture.roll_out().await;
    let (server, access) = fixture.access();
    let _permit = access.enter(&server, "users").await.expect("the only permit");
    let mut changed = super::spec("1");
    changed["database"] = json!({ "connectionLimit": 3 });
    fixture.apply(changed, 2);
    let status = fixture.reconcile().await;
    assert_condition(&status, "DatabaseReady", ("False", "ServerBusy"));
}

/// As after a takeover, when the server is first tried.
#[tokio::test]
async fn ready_stays_until_the_server_is_known_to_fail() {
    let postgres = postgres();
    let mut fixture = Fixture::with_server(&postgres);
    fixture.roll_out().await;
    let before = fixture.reconcile().await;
    let mut lock = PgConnection::connect(&postgres.superuser_url("postgres")).await.expect("a connection");
    raw_sql("BEGIN; LOCK TABLE pg_shdescription IN ACCESS EXCLUSIVE MODE").execute(&mut lock).await.expect("locked");
    fixture.access().1.interrupted(&Error::Sql { action: "read".to_owned(), reason: "test".to_owned() });
    fixture.context.databases.forget("the-uid");
    assert_eq!(fixture.reconcile().await, before, "nothing is known yet");
    fixture.until("DatabaseReady", ("False", "ServerUnreachable")).await;
}

#[tokio::test]
async fn another_server_that_has_not_responded_is_not_ready() {
    let postgres = postgres();
    let mut fixture = Fixture::with_server(&postgres);
    fixture.roll_out().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    fixture.server.put(ADMIN, admin_secret(&format!("postgres://admin:x@127.0.0.1:{port}/postgres"), ""));
    let status = fixture.reconcile().await;
    let message = assert_condition(&status, "DatabaseReady", ("False", "ServerUnreachable"));
    assert!(message.ends_with("has not responded yet"), "{message}");
}

#[tokio::test]
async fn a_queue_at_the_server_does_not_change_a_failure() {
    let postgres = postgres();
    Fixture::with_server(&postgres).roll_out().await;
    let mut staging = Fixture::with_server(&postgres);
    let uid = json!({ "metadata": { "name": "kube-system", "uid": "another-cluster" } });
    staging.server.put("/api/v1/namespaces/kube-system", uid);
    let before = staging.reconcile().await;
    assert_condition(&before, "Stalled", ("True", "DatabaseTaken"));
    let (server, access) = staging.access();
    let _permit = access.enter(&server, "users").await.expect("the only permit");
    assert_eq!(staging.reconcile().await, before);
    staging.context.databases.forget("the-uid");
    assert_eq!(staging.reconcile().await["conditions"][0]["status"], "False");
    assert!(staging.server.get(DEPLOYMENT).is_none(), "a new leader starts no pods either");
}

#[tokio::test]
async fn a_queue_at_the_server_does_not_hold_up_a_rollback() {
    let postgres = postgres();
    let mut fixture = Fixture::with_server(&postgres);
    fixture.roll_out().await;
    fixture.context.databases.forget("the-uid");
    let (server, access) = fixture.access();
    access.login_failed(&Error::Unreachable { server: "localhost".to_owned(), reason: "test".to_owned() });
    let status = fixture.reconcile().await;
    assert_condition(&status, "DatabaseReady", ("False", "ServerUnreachable"));
    let what = "the server is tried again";
    let _permit = eventually(what, TIMEOUT, async || access.enter(&server, "users").await.ok()).await;
    fixture.apply(super::spec("2"), 2);
    let status = fixture.reconcile().await;
    assert_condition(&status, "DatabaseReady", ("False", "ServerUnreachable"));
    fixture.complete_migration();
    fixture.reconcile().await;
    assert_eq!(fixture.image(), "localhost/orders:2");
}

#[tokio::test]
async fn a_deleted_namespace_takes_all_databases_along() {
    let postgres = postgres();
    let fixture = Fixture::with_server(&postgres);
    let (server, _) = fixture.access();
    let names: Vec<String> = (0..6).map(|number| format!("orders-{number}")).collect();
    let paths: Vec<String> = names.iter().map(|name| OBJECT.replace("orders", name)).collect();
    for (name, path) in names.iter().zip(&paths) {
        let spec = DatabaseSpec {
            name: name.clone(),
            owner: Owner::new("the-cluster", "test", "default", name.as_str()).expect("an owner"),
            password: "x".to_owned(),
            connection_limit: 20,
            adoption: Adoption::None,
        };
        server.ensure(&spec).await.expect("a database");
        let metadata = json!({
            "name": name, "namespace": "default", "uid": name, "generation": 1,
            "finalizers": [finalizers::DATABASE],
        });
        let spec = json!({ "image": "localhost/orders:1", "database": { "deletionPolicy": "Delete" } });
        fixture.server.put(
            path,
            json!({ "apiVersion": "hedgerow.dev/v1alpha1", "kind": "Microservice", "metadata": metadata, "spec": spec }),
        );
    }
    let metadata = json!({ "name": "default", "deletionTimestamp": "2026-01-01T00:00:00Z" });
    fixture.server.put("/api/v1/namespaces/default", json!({ "metadata": metadata }));
    time::timeout(TIMEOUT, finalize::release_all(&fixture.context)).await.expect("it has a limit");
    let kept = "SELECT datname::text FROM pg_database WHERE datname LIKE 'orders-%'";
    assert_eq!(list(&postgres, kept).await, [""; 0]);
    let finalizers = |path: &String| fixture.server.get(path).expect("the object")["metadata"]["finalizers"].clone();
    assert!(paths.iter().all(|path| finalizers(path) == Value::Array(Vec::new())));
}

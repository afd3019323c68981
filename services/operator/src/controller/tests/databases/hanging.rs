//! A server that accepts logins and then hangs.

use std::time::{Duration, Instant};

use embedded_postgres::Server;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use test_support::process::{TIMEOUT, eventually};

use super::{
    super::{DEPLOYMENT, Fixture, OBJECT, Settings, condition, plain, replica::Replica, settings},
    ADMIN, CREDENTIALS, admin_secret, assert_condition, decoded, postgres, spec,
};

/// Locks a catalog that every session of the admin reads, until the connection is closed.
async fn hang(server: &Server) -> PgConnection {
    let mut connection = PgConnection::connect(&server.superuser_url("postgres")).await.expect("a connection");
    let lock = sqlx::raw_sql("BEGIN; LOCK TABLE pg_shdescription IN ACCESS EXCLUSIVE MODE");
    lock.execute(&mut connection).await.expect("a lock");
    connection
}

#[tokio::test]
async fn a_server_that_hangs_after_the_login_is_remembered() {
    let postgres = postgres();
    let mut fixture = Fixture::with_server(&postgres);
    fixture.roll_out().await;
    let lock = hang(&postgres).await;
    fixture.context.databases.forget("the-uid");
    let status = fixture.reconcile().await;
    let message = assert_condition(&status, "DatabaseReady", ("False", "ServerUnreachable"));
    assert!(message.contains("does not respond to queries"), "{message}");
    // Longer than a probe that only logged in would take to call the server healthy.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(4) {
        let turn = Instant::now();
        let status = fixture.reconcile().await;
        assert_condition(&status, "DatabaseReady", ("False", "ServerUnreachable"));
        assert!(turn.elapsed() < Duration::from_secs(4), "it does not wait for the server: {:?}", turn.elapsed());
    }
    lock.close().await.expect("it closes");
    fixture.until("DatabaseReady", ("True", "DatabaseReady")).await;
}

#[tokio::test]
async fn pods_are_reported_while_the_server_hangs() {
    let postgres = postgres();
    let mut fixture = Fixture::with_server(&postgres);
    fixture.roll_out().await;
    let _lock = hang(&postgres).await;
    fixture.context.databases.forget("the-uid");
    fixture.deployed(0);
    let server = fixture.server.clone();
    let reported = async {
        let reported = async || {
            let status = server.get(OBJECT)?["status"].clone();
            (condition(&status, "Available")["status"] == "False").then_some(status)
        };
        eventually("the pods are reported", TIMEOUT, reported).await
    };
    let reconcile = fixture.reconcile();
    tokio::pin!(reconcile);
    let status = tokio::select! {
        status = reported => status,
        _ = &mut reconcile => panic!("the pods were not reported before the database step ended"),
    };
    assert_condition(&status, "Ready", ("False", "PodsNotReady"));
    assert_condition(&status, "Reconciling", ("True", "PodsNotReady"));
    assert_condition(&status, "DatabaseReady", ("True", "DatabaseReady"));
    assert_eq!((&status["replicas"], &status["readyReplicas"]), (&json!(2), &json!(0)));
    let status = reconcile.await;
    assert_condition(&status, "Ready", ("False", "ServerUnreachable"));
    assert_condition(&status, "Available", ("False", "Unavailable"));
}

#[tokio::test]
async fn pods_that_stay_ready_cause_no_write_while_the_server_hangs() {
    let postgres = postgres();
    let mut fixture = Fixture::with_server(&postgres);
    fixture.roll_out().await;
    let _lock = hang(&postgres).await;
    fixture.context.databases.forget("the-uid");
    let status = fixture.reconcile().await;
    assert_condition(&status, "Ready", ("False", "ServerUnreachable"));
    let ever = fixture.server.states(OBJECT);
    let unready = ever.iter().filter(|state| {
        let conditions = state["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|found| found["type"] == "DatabaseReady" && found["reason"] == "ServerUnreachable")
    });
    assert_eq!(unready.count(), 1);
    drop(fixture.server.take_writes());
    fixture.context.databases.forget("the-uid");
    fixture.reconcile().await;
    assert_eq!(fixture.server.take_writes(), []);
}

#[tokio::test]
async fn a_service_that_locks_its_own_tables_does_not_fail_the_server() {
    let postgres = postgres();
    let mut fixture = Fixture::with_server(&postgres);
    fixture.roll_out().await;
    let password = decoded(&fixture.server.get(CREDENTIALS).expect("a Secret")["data"]["password"]);
    let mut service = PgConnection::connect(&postgres.url("orders", &password, "orders")).await.expect("a connection");
    for sql in [
        "CREATE TABLE _sqlx_migrations (version bigint, success boolean)",
        "BEGIN; LOCK TABLE _sqlx_migrations IN ACCESS EXCLUSIVE MODE",
    ] {
        sqlx::raw_sql(sql).execute(&mut service).await.expect("it succeeds");
    }
    fixture.context.databases.forget("the-uid");
    fixture.reconcile().await;
    let (server, access) = fixture.access();
    assert!(access.enter(&server, "users").await.is_ok(), "others can use the server");
}

/// A hundred objects whose server hangs, and one without a database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_beside_a_server_that_hangs_is_acted_on_at_once() {
    let postgres = postgres();
    let _lock = hang(&postgres).await;
    let mut fixture = Fixture::new(plain());
    fixture.server.put(ADMIN, admin_secret(&postgres.superuser_url("postgres"), ""));
    for number in 0..100 {
        let name = format!("hanging-{number}");
        let metadata = json!({ "name": name, "namespace": "default", "uid": name, "generation": 1 });
        fixture.server.put(
            &OBJECT.replace("orders", &name),
            json!({
                "apiVersion": "hedgerow.dev/v1alpha1", "kind": "Microservice", "metadata": metadata, "spec": spec("1"),
            }),
        );
    }
    let replica = Replica::start(fixture.server.clone(), Settings { concurrency: 8, ..settings() });
    replica.lead();
    let server = fixture.server.clone();
    eventually("the first reconcile", TIMEOUT, async || server.get(DEPLOYMENT)).await;
    // Long enough for the first sessions to run into their timeouts.
    let (begin, mut generation) = (Instant::now(), 1);
    while begin.elapsed() < Duration::from_secs(15) {
        generation += 1;
        let image = format!("localhost/orders:{generation}");
        let mut changed = plain();
        changed["image"] = image.clone().into();
        fixture.apply(changed, generation);
        let acted_on = async || (fixture.image() == *image).then_some(());
        eventually("the change is acted on", Duration::from_secs(3), acted_on).await;
    }
}

//! A server that accepts connections and says nothing.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::{net::TcpListener, time};

use super::{
    super::{DEPLOYMENT, Fixture, OBJECT, SERVICE, Settings, plain, replica::Replica, settings},
    ADMIN, admin_secret, assert_condition, spec,
};

#[tokio::test]
async fn children_do_not_wait_for_a_silent_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let mut fixture = Fixture::new(spec("1"));
    fixture.server.put(ADMIN, admin_secret(&format!("postgres://admin:x@127.0.0.1:{port}/postgres"), ""));
    let server = fixture.server.clone();
    let applied = async {
        while server.get(SERVICE).is_none() {
            time::sleep(Duration::from_millis(1)).await;
        }
    };
    let reconcile = fixture.reconcile();
    tokio::pin!(reconcile);
    tokio::select! {
        () = applied => {}
        _ = &mut reconcile => panic!("the Service was not applied before the database step ended"),
    }
    assert_condition(&reconcile.await, "DatabaseReady", ("False", "ServerUnreachable"));
}

/// Less than a login takes to time out.
const AT_ONCE: Duration = Duration::from_secs(4);

/// A hundred objects whose server accepts connections and says nothing, and one without a database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_beside_a_silent_server_is_acted_on_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let mut fixture = Fixture::new(plain());
    fixture.server.put(ADMIN, admin_secret(&format!("postgres://admin:x@127.0.0.1:{port}/postgres"), ""));
    let silent: Vec<_> = (0..100).map(|number| OBJECT.replace("orders", &format!("silent-{number}"))).collect();
    for (number, path) in silent.iter().enumerate() {
        let metadata = json!({
            "name": format!("silent-{number}"), "namespace": "default", "uid": number.to_string(), "generation": 1,
        });
        fixture.server.put(
            path,
            json!({
                "apiVersion": "hedgerow.dev/v1alpha1", "kind": "Microservice", "metadata": metadata, "spec": spec("1"),
            }),
        );
    }
    let replica = Replica::start(fixture.server.clone(), Settings { concurrency: 8, ..settings() });
    replica.lead();
    let server = fixture.server.clone();
    let until = async |what: &str, limit: Duration, holds: &dyn Fn() -> bool| {
        let begin = Instant::now();
        while !holds() {
            assert!(begin.elapsed() < limit, "{what}: not within {limit:?}");
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    let unreachable = |path: &String| {
        let object = server.get(path).expect("the object");
        let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
        conditions.any(|condition| condition["type"] == "DatabaseReady" && condition["reason"] == "ServerUnreachable")
    };
    let all_known = || server.get(DEPLOYMENT).is_some() && silent.iter().all(unreachable);
    until("every object was reconciled", Duration::from_secs(30), &all_known).await;
    // Long enough for several attempts to log in.
    let (begin, mut generation) = (Instant::now(), 1);
    while begin.elapsed() < Duration::from_secs(8) {
        generation += 1;
        let image = format!("localhost/orders:{generation}");
        let mut changed = plain();
        changed["image"] = image.clone().into();
        fixture.apply(changed, generation);
        until("the change is acted on", AT_ONCE, &|| fixture.image() == *image).await;
    }
}

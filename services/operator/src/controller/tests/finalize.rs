//! Deletion of objects whose database cannot be dropped.

use k8s_openapi::{ByteString, jiff::Timestamp};
use serde_json::{Value, json};

use super::{super::finalize, Fixture, OBJECT, condition, plain};

const SECRET: &str = "/api/v1/namespaces/default/secrets/hedgerow-postgres";
const NAMESPACE: &str = "/api/v1/namespaces/default";

fn spec(policy: &str) -> Value {
    json!({ "image": "localhost/orders:1", "database": { "deletionPolicy": policy } })
}

fn seconds_ago(seconds: i64) -> Value {
    Timestamp::from_second(Timestamp::now().as_second() - seconds).expect("a time").to_string().into()
}

/// An object with the finalizer, on a server where nothing listens.
fn unreachable() -> Fixture {
    let fixture = Fixture::new(spec("Delete"));
    let url = ByteString(b"postgres://admin:secret@127.0.0.1:1/postgres".to_vec());
    fixture.server.put(SECRET, json!({ "metadata": { "name": "hedgerow-postgres" }, "data": { "url": url } }));
    fixture.change(|object| object["metadata"]["finalizers"] = json!(["hedgerow.dev/database"]));
    fixture
}

impl Fixture {
    fn change(&self, change: impl FnOnce(&mut Value)) {
        let mut object = self.server.get(OBJECT).expect("the object");
        change(&mut object);
        self.server.put(OBJECT, object);
    }

    fn delete_object(&self, seconds: i64) {
        self.change(|object| object["metadata"]["deletionTimestamp"] = seconds_ago(seconds));
    }

    fn delete_namespace(&self) {
        let metadata = json!({ "name": "default", "deletionTimestamp": seconds_ago(0) });
        self.server.put(NAMESPACE, json!({ "metadata": metadata }));
    }

    fn is_held(&self) -> bool {
        self.server.get(OBJECT).expect("the object")["metadata"]["finalizers"] != json!([])
    }
}

#[tokio::test]
async fn the_status_says_why_a_deleted_object_still_exists() {
    let mut fixture = unreachable();
    fixture.delete_object(0);
    let status = fixture.reconcile().await;
    let ready = condition(&status, "Ready");
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("DatabaseNotDropped")), "{status:#}");
    let message = ready["message"].as_str().expect("a text");
    for part in ["database orders cannot be dropped", "127.0.0.1:1", "deletionPolicy to Retain"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(fixture.is_held());
    drop(fixture.server.take_writes());
    fixture.reconcile().await;
    assert_eq!(fixture.server.take_writes(), [], "it is said once");
}

#[tokio::test]
async fn an_object_that_others_hold_is_not_ready() {
    let mut fixture = Fixture::new(plain());
    let status = fixture.settle().await;
    assert_eq!(condition(&status, "Ready")["status"], "True", "{status:#}");
    fixture.change(|object| object["metadata"]["finalizers"] = json!(["example.com/theirs"]));
    fixture.delete_object(0);
    let status = fixture.reconcile().await;
    let ready = condition(&status, "Ready");
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("Deleting")), "{status:#}");
    assert!(ready["message"].as_str().expect("a text").contains("example.com/theirs"), "{ready}");
    assert_eq!(condition(&status, "Available")["status"], "True", "the pods still run");
    drop(fixture.server.take_writes());
    fixture.reconcile().await;
    assert_eq!(fixture.server.take_writes(), [], "it is said once");
}

#[tokio::test]
async fn retaining_the_database_releases_a_deleted_object() {
    let mut fixture = unreachable();
    fixture.delete_object(0);
    fixture.reconcile().await;
    fixture.apply(spec("Retain"), 2);
    fixture.reconcile().await;
    assert!(!fixture.is_held());
}

#[tokio::test]
async fn a_database_does_not_hold_a_deleted_namespace_for_long() {
    let mut fixture = unreachable();
    fixture.delete_object(120);
    fixture.reconcile().await;
    assert!(fixture.is_held(), "the namespace stays");
    fixture.delete_namespace();
    fixture.delete_object(0);
    fixture.reconcile().await;
    assert!(fixture.is_held(), "it is tried for a while");
    fixture.delete_object(60);
    fixture.reconcile().await;
    assert!(!fixture.is_held());
}

#[tokio::test]
async fn a_stopped_operator_releases_what_goes_with_the_namespace() {
    let fixture = unreachable();
    finalize::release_all(&fixture.context).await;
    assert!(fixture.is_held(), "the namespace stays, and so does the object");
    fixture.delete_namespace();
    finalize::release_all(&fixture.context).await;
    assert!(!fixture.is_held(), "nobody will be left to do it");
}

//! The finalizer of objects whose database is deleted with them.

use std::{sync::Arc, time::Duration};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{task, time};

use super::{super::reconcile::reconcile, Fixture, OBJECT};
use api::{Microservice, finalizers};

fn spec(deletion_policy: &str) -> Value {
    json!({ "image": "localhost/orders:1", "database": { "deletionPolicy": deletion_policy } })
}

fn object(fixture: &Fixture) -> Microservice {
    serde_json::from_value(fixture.server.get(OBJECT).expect("the object")).expect("a Microservice")
}

/// Changes the metadata of the object, as someone else does.
fn edit(fixture: &Fixture, field: &str, value: Value) {
    let mut object = fixture.server.get(OBJECT).expect("the object");
    object["metadata"][field] = value;
    fixture.server.put(OBJECT, object);
}

/// Reconciles an old state of the object. The writes of the operator conflict with the change since then until it reads
/// the object.
async fn reconcile_old(fixture: &Fixture, old: Microservice) {
    fixture.server.refuse(Method::PATCH, "/microservices/orders", StatusCode::CONFLICT, "it changed");
    let read = async {
        while !fixture.server.take_requests().contains(&(Method::GET, OBJECT.to_owned())) {
            task::yield_now().await;
        }
        fixture.server.stop_refusing();
    };
    let read = time::timeout(Duration::from_secs(10), read);
    let (reconciled, read) = tokio::join!(reconcile(Arc::new(old), fixture.context.clone()), read);
    read.expect("it reads the object after the conflict");
    reconciled.expect("the reconcile succeeds");
}

fn asked_for_secrets(fixture: &Fixture) -> bool {
    fixture.server.take_requests().iter().any(|(_, path)| path.contains("/secrets/"))
}

#[tokio::test]
async fn a_conflict_does_not_swallow_the_finalizer() {
    let fixture = Fixture::new(spec("Delete"));
    let stale = object(&fixture);
    edit(&fixture, "finalizers", json!(["example.com/theirs"]));
    reconcile_old(&fixture, stale).await;
    assert_eq!(object(&fixture).metadata.finalizers.expect("both"), ["example.com/theirs", finalizers::DATABASE]);
}

#[tokio::test]
async fn a_conflict_does_not_keep_a_deleted_object() {
    let fixture = Fixture::new(spec("Retain"));
    edit(&fixture, "finalizers", json!([finalizers::DATABASE]));
    edit(&fixture, "deletionTimestamp", json!("2026-01-01T00:00:00Z"));
    let stale = object(&fixture);
    edit(&fixture, "finalizers", json!([finalizers::DATABASE, "example.com/theirs"]));
    reconcile_old(&fixture, stale).await;
    assert_eq!(object(&fixture).metadata.finalizers.expect("theirs"), ["example.com/theirs"]);
}

#[tokio::test]
async fn no_database_is_created_before_its_finalizer() {
    let fixture = Fixture::new(spec("Delete"));
    fixture.server.refuse(Method::PATCH, "/microservices/orders", StatusCode::CONFLICT, "it has been modified");
    let reconciled = reconcile(Arc::new(object(&fixture)), fixture.context.clone()).await;
    assert!(reconciled.expect_err("the finalizer is missing").is_conflict());
    assert!(!asked_for_secrets(&fixture));

    let stale = object(&fixture);
    edit(&fixture, "deletionTimestamp", json!("2026-01-01T00:00:00Z"));
    reconcile(Arc::new(stale), fixture.context.clone()).await.expect("nothing is left to do");
    assert!(!asked_for_secrets(&fixture), "it is being deleted");
}

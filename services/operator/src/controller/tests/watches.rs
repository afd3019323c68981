//! What the watches trigger. The clock is paused, so it advances only while all tasks are idle.

use std::time::Duration;

use futures_util::{Stream, StreamExt};
use kube::runtime::reflector::ObjectRef;
use serde_json::json;
use tokio::time;

use super::{super::watches, Fixture, OBJECT, SERVICE};
use api::Microservice;

/// Longer than any backoff of a watch.
const LIMIT: Duration = Duration::from_mins(2);

/// Waits until an object of this name is triggered.
async fn until(triggers: &mut (impl Stream<Item = ObjectRef<Microservice>> + Unpin), name: &str) {
    let triggered = async { while triggers.next().await.expect("an endless stream").name != name {} };
    time::timeout(LIMIT, triggered).await.unwrap_or_else(|_| panic!("{name} was not triggered"));
}

#[tokio::test(start_paused = true)]
async fn deletion_during_a_watch_outage_is_noticed() {
    let Fixture { server, context, store, .. } =
        Fixture::new(json!({ "image": "localhost/orders:1", "route": { "paths": ["/a"] } }));
    let competitor = json!({
        "apiVersion": "hedgerow.dev/v1alpha1", "kind": "Microservice",
        "metadata": { "name": "baskets", "namespace": "default" },
        "spec": { "image": "localhost/baskets:1", "route": { "paths": ["/a"] } },
    });
    server.put(&OBJECT.replace("orders", "baskets"), competitor);
    let mut triggers = Box::pin(watches::objects(&context, store));
    // The list contains baskets, then orders, which each trigger the other.
    for name in ["baskets", "orders", "orders", "baskets"] {
        assert_eq!(triggers.next().await.expect("an endless stream").name, name);
    }
    context.queue.add("orders");

    server.break_watches();
    server.delete(OBJECT);
    server.forget_history();
    until(&mut triggers, "baskets").await;
    assert_eq!(context.queue.depth(), 0, "the state of the deleted object is dropped");
}

#[tokio::test(start_paused = true)]
async fn a_child_triggers_the_object_that_controls_it() {
    let fixture = Fixture::new(super::plain());
    let owner = |name: &str, controller: bool| {
        json!({
            "apiVersion": "hedgerow.dev/v1alpha1", "kind": "Microservice", "name": name, "uid": name,
            "controller": controller,
        })
    };
    let owners = json!([owner("other", false), owner("orders", true)]);
    let child = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "orders", "ownerReferences": owners },
    });
    fixture.server.put(SERVICE, child);
    let mut triggers = Box::pin(watches::children(&fixture.context));
    let first = time::timeout(LIMIT, triggers.next()).await.expect("in time").expect("an endless stream");
    assert_eq!(first.name, "orders");
}

//! What the watches trigger. The clock is paused, so it advances only while all tasks are idle.

use std::time::Duration;

use futures_util::{Stream, StreamExt};
use http::{Method, StatusCode};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use serde_json::{Value, json};
use tokio::time::{self, Instant};

use super::{
    super::{cache::VerifiedDatabase, watches},
    AUTOSCALER, Fixture, OBJECT, SERVICE,
};
use api::{Microservice, MicroserviceStatus};

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
    assert_eq!(context.queue.waiting().0, 0, "the state of the deleted object is dropped");
}

#[tokio::test(start_paused = true)]
async fn the_state_of_an_object_made_again_in_an_outage_is_dropped() {
    let Fixture { server, context, store, .. } = Fixture::new(super::plain());
    let mut triggers = Box::pin(watches::objects(&context, store));
    until(&mut triggers, "orders").await;
    let verified = VerifiedDatabase {
        spec: 1,
        at: Instant::now(),
        verified_at: Timestamp::now(),
        schema_version: None,
        is_exhausted: false,
        system_identifier: String::new(),
        message: String::new(),
    };
    context.databases.insert("the-uid", verified);

    server.break_watches();
    let mut object = server.get(OBJECT).expect("the object");
    server.delete(OBJECT);
    object["metadata"]["uid"] = "another-uid".into();
    server.put(OBJECT, object);
    server.forget_history();
    until(&mut triggers, "orders").await;
    assert!(context.databases.get("the-uid").is_none());
}

/// A Service with owners, each of which controls it or not.
fn service(owners: &[(&str, bool)]) -> Value {
    let owner = |(name, controller): &(&str, bool)| {
        json!({
            "apiVersion": "hedgerow.dev/v1alpha1", "kind": "Microservice", "name": name, "uid": name,
            "controller": controller,
        })
    };
    let owners: Vec<_> = owners.iter().map(owner).collect();
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "orders", "ownerReferences": owners } })
}

#[tokio::test(start_paused = true)]
async fn a_child_triggers_the_object_that_controls_it() {
    let fixture = Fixture::new(super::plain());
    fixture.server.put(SERVICE, service(&[("other", false), ("orders", true)]));
    let mut triggers = Box::pin(watches::children(&fixture.context));
    let first = time::timeout(LIMIT, triggers.next()).await.expect("in time").expect("an endless stream");
    assert_eq!(first.name, "orders");

    // It loses its controller.
    fixture.server.put(SERVICE, service(&[("orders", false)]));
    until(&mut triggers, "orders").await;
}

#[tokio::test(start_paused = true)]
async fn a_child_deleted_during_a_watch_outage_triggers_its_owner() {
    let fixture = Fixture::new(super::plain());
    fixture.server.put(SERVICE, service(&[("orders", true)]));
    let mut triggers = Box::pin(watches::children(&fixture.context));
    until(&mut triggers, "orders").await;

    fixture.server.break_watches();
    fixture.server.delete(SERVICE);
    fixture.server.forget_history();
    until(&mut triggers, "orders").await;
}

#[tokio::test(start_paused = true)]
async fn a_measurement_of_an_autoscaler_triggers_nothing() {
    let fixture = Fixture::new(super::plain());
    let measured = |utilization: i32, active: &str| {
        let mut autoscaler = service(&[("orders", true)]);
        autoscaler["metadata"]["uid"] = "the-autoscaler".into();
        autoscaler["apiVersion"] = "autoscaling/v2".into();
        autoscaler["kind"] = "HorizontalPodAutoscaler".into();
        let metric = json!({ "type": "Resource", "resource": {
            "name": "cpu", "current": { "averageUtilization": utilization },
        } });
        let condition = json!({ "type": "ScalingActive", "status": active, "message": "the HPA was able to" });
        autoscaler["status"] = json!({ "currentMetrics": [metric], "desiredReplicas": 2, "conditions": [condition] });
        fixture.server.put(AUTOSCALER, autoscaler);
    };
    measured(10, "True");
    let mut triggers = Box::pin(watches::children(&fixture.context));
    until(&mut triggers, "orders").await;
    measured(50, "True");
    assert!(time::timeout(LIMIT, triggers.next()).await.is_err(), "nothing changed that a reconcile looks at");
    measured(50, "False");
    until(&mut triggers, "orders").await;
}

#[tokio::test(start_paused = true)]
async fn only_a_status_of_someone_else_triggers_its_object() {
    let Fixture { server, context, store, .. } = Fixture::new(super::plain());
    let mut triggers = Box::pin(watches::objects(&context, store));
    until(&mut triggers, "orders").await;

    let read = || -> Microservice { serde_json::from_value(server.get(OBJECT).expect("it")).expect("a Microservice") };
    let write = |status: Value| {
        let mut object = server.get(OBJECT).expect("the object");
        object["status"] = status;
        server.put(OBJECT, object);
    };
    let status = json!({ "observedGeneration": 1, "replicas": 3, "readyReplicas": 3, "conditions": [] });
    let written: MicroserviceStatus = serde_json::from_value(status.clone()).expect("a status");
    context.own_statuses.begin(&read(), &written);
    write(status);
    assert!(time::timeout(LIMIT, triggers.next()).await.is_err(), "the operator wrote it");
    context.own_statuses.end(&read(), &written);
    write(json!({ "observedGeneration": -1 }));
    until(&mut triggers, "orders").await;
}

#[tokio::test(start_paused = true)]
async fn an_uninstalled_kind_is_noticed_at_once() {
    let Fixture { server, context, store, pod_monitors_found, .. } = Fixture::new(super::plain());
    let mut objects = Box::pin(watches::objects(&context, store));
    until(&mut objects, "orders").await;
    let group = "/apis/monitoring.coreos.com/v1";
    let resource = json!({
        "name": "podmonitors", "singularName": "podmonitor", "namespaced": true, "kind": "PodMonitor", "verbs": [],
    });
    server.put(group, json!({ "groupVersion": "monitoring.coreos.com/v1", "resources": [resource] }));
    let mut triggers = Box::pin(watches::pod_monitors(&context, pod_monitors_found));
    until(&mut triggers, "orders").await;
    assert!(*context.pod_monitors.borrow());
    assert!(time::timeout(LIMIT, triggers.next()).await.is_err(), "it is watched");

    server.delete(group);
    server.refuse(Method::GET, "/podmonitors", StatusCode::NOT_FOUND, "404 page not found");
    server.break_watches();
    assert!(LIMIT < context.settings.resync);
    until(&mut triggers, "orders").await;
    assert!(!*context.pod_monitors.borrow());
}

#[tokio::test(start_paused = true)]
async fn a_changed_or_deleted_secret_triggers_its_object() {
    let fixture = Fixture::new(super::plain());
    fixture.server.refuse_data("/secrets");
    let path = "/api/v1/namespaces/default/secrets/orders-database";
    let put = |password: &str| {
        let labels = json!({
            "app.kubernetes.io/name": "orders", "app.kubernetes.io/component": "database",
            "app.kubernetes.io/managed-by": "hedgerow-operator",
        });
        let metadata = json!({ "name": "orders-database", "labels": labels });
        fixture.server.put(path, json!({ "metadata": metadata, "data": { "password": password } }));
    };
    let mut triggers = Box::pin(watches::secrets(&fixture.context));
    put("one");
    assert!(time::timeout(LIMIT, triggers.next()).await.is_err(), "a new one is no news");
    put("two");
    until(&mut triggers, "orders").await;
    fixture.server.delete(path);
    until(&mut triggers, "orders").await;
    put("three");
    assert!(time::timeout(LIMIT, triggers.next()).await.is_err());
    // It is deleted during a watch outage.
    fixture.server.break_watches();
    fixture.server.delete(path);
    fixture.server.forget_history();
    until(&mut triggers, "orders").await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_secret_of_a_server_triggers_the_objects_on_it() {
    let Fixture { server, context, store, .. } = Fixture::new(json!({ "image": "localhost/orders:1", "database": {} }));
    let mut objects = Box::pin(watches::objects(&context, store));
    until(&mut objects, "orders").await;
    let mut triggers = Box::pin(watches::secrets(&context));
    let put = |name: &str, url: &str| {
        let path = format!("/api/v1/namespaces/default/secrets/{name}");
        server.put(&path, json!({ "metadata": { "name": name }, "data": { "url": url } }));
    };
    put("another-postgres", "b25l");
    assert!(time::timeout(LIMIT, triggers.next()).await.is_err(), "it is not that of its server");
    for url in ["b25l", "dHdv"] {
        put("hedgerow-postgres", url);
        until(&mut triggers, "orders").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_label_on_a_secret_triggers_the_objects_whose_variables_name_it() {
    let source = json!({ "secretKeyRef": { "name": "spare-postgres", "key": "url" } });
    let env = json!([{ "name": "TOKEN", "valueFrom": source }]);
    let Fixture { server, context, store, .. } = Fixture::new(json!({ "image": "localhost/orders:1", "env": env }));
    let mut objects = Box::pin(watches::objects(&context, store));
    until(&mut objects, "orders").await;
    let put = |labels: Value| {
        let metadata = json!({ "name": "spare-postgres", "labels": labels });
        server.put("/api/v1/namespaces/default/secrets/spare-postgres", json!({ "metadata": metadata }));
    };
    put(json!({ "app": "postgres" }));
    let mut triggers = Box::pin(watches::secrets(&context));
    assert!(time::timeout(LIMIT, triggers.next()).await.is_err(), "it is not that of a server");
    put(json!({ "hedgerow.dev/server": "true" }));
    until(&mut triggers, "orders").await;
    put(json!({}));
    until(&mut triggers, "orders").await;
}

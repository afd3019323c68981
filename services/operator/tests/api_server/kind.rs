//! The rules and defaults of the kind, checked by the API server.

use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use test_support::admission::{self as cases, Case};

use super::namespace::{Cluster, in_namespace};

fn object(name: &str) -> Value {
    json!({
        "apiVersion": "hedgerow.dev/v1alpha1",
        "kind": "Microservice",
        "metadata": { "name": name },
        "spec": { "image": "registry.example/orders:1.0" },
    })
}

#[tokio::test]
async fn api_server_agrees_with_the_api_crate() {
    in_namespace("rules", |cluster| async move {
        for case in cases::all() {
            let result = submit(&cluster, &case).await;
            match (case.refusal, result) {
                (None, Ok(warnings)) => assert!(warnings.is_empty(), "{}: {warnings:?}", case.spec),
                (Some(expected), Err(refusal)) => assert!(refusal.contains(expected), "{}: {refusal}", case.spec),
                (_, result) => panic!("{} {}: {result:?}", case.name, case.spec),
            }
        }
    })
    .await;
}

async fn submit(cluster: &Cluster, case: &Case) -> Result<Vec<String>, String> {
    let (old, mut object) = case.objects();
    let Some(old) = old else {
        return cluster.try_create(&object).await;
    };
    let api = cluster.api(&old).await;
    let old = serde_json::from_value(old).expect("an object");
    let stored = api.create(&PostParams::default(), &old).await.expect("the old object is accepted");
    object["metadata"]["resourceVersion"] = json!(stored.metadata.resource_version);
    let result = cluster.try_replace(&object).await;
    api.delete(case.name, &DeleteParams::default()).await.expect("the object is deleted");
    result
}

/// Without them, a rule would be for more requests than its author wrote. The gateway closes such a route.
#[tokio::test]
async fn unknown_parts_of_auth_are_kept() {
    in_namespace("auth", |cluster| async move {
        let rule = json!({ "paths": ["/orders/a"], "mode": "none", "claims": { "a": ["b"] } });
        let auth = json!({ "forward": "token", "later": 1, "rules": [rule] });
        let mut object = object("orders");
        object["spec"]["route"] = json!({ "paths": ["/orders"], "auth": auth });
        let api = cluster.api(&object).await;
        let object = serde_json::from_value(object).expect("an object");
        let stored = api.create(&PostParams::default(), &object).await.expect("the object is accepted");
        assert_eq!(stored.data["spec"]["route"]["auth"], auth);
    })
    .await;
}

#[tokio::test]
async fn defaults_are_filled_in() {
    in_namespace("defaults", |cluster| async move {
        let object = object("orders");
        let api = cluster.api(&object).await;
        let object = serde_json::from_value(object).expect("an object");
        let stored = api.create(&PostParams::default(), &object).await.expect("the object is accepted");
        assert_eq!(
            stored.data["spec"],
            json!({
                "image": "registry.example/orders:1.0",
                "ports": { "http": 8080, "admin": 9090 },
                "service": { "type": "ClusterIP" },
                "automountToken": false,
                "scaling": { "min": 2, "max": 10, "cpu": 70, "scaleDownSeconds": 300 },
                "network": {},
            })
        );
        // kstatus must not consider the object ready.
        assert_eq!(stored.data["status"]["observedGeneration"], -1);
    })
    .await;
}

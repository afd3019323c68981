//! The API server accepts the children in a namespace that enforces the `restricted` Pod Security Standard.

use std::process::Command;

use kube::api::PostParams;
use serde_json::{Value, json};

use super::namespace::{Cluster, in_namespace};

/// The children of an object of `tests/render`.
fn rendered(name: &str) -> Vec<Value> {
    let file = format!("{}/tests/render/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    let output =
        Command::new(env!("CARGO_BIN_EXE_operator")).args(["render", "-f", &file]).output().expect("the operator runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let mut children: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
    // The request sets the namespace of the test.
    for child in &mut children {
        child["metadata"]["namespace"].take();
    }
    children
}

#[tokio::test]
async fn every_child_is_accepted_without_warnings() {
    in_namespace("children", |cluster| async move {
        for name in ["plain", "single", "open", "grpc", "full"] {
            let children = rendered(name);
            assert!(children.len() >= 5, "{name}: {children:?}");
            for child in &children {
                accept(&cluster, child).await;
            }
            // The first child is the ServiceAccount, which pods require.
            let [account, children @ ..] = children.as_slice() else { panic!("{name} has no children") };
            let api = cluster.api(account).await;
            let account = serde_json::from_value(account.clone()).expect("an object");
            api.create(&PostParams::default(), &account).await.expect("the ServiceAccount is accepted");
            for child in children.iter().filter(|child| child["spec"]["template"].is_object()) {
                accept(&cluster, &pod(child)).await;
            }
        }
    })
    .await;
}

/// A pod of a Deployment or a Job.
fn pod(workload: &Value) -> Value {
    let mut pod = workload["spec"]["template"].clone();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!("probe");
    pod
}

async fn accept(cluster: &Cluster, object: &Value) {
    let warnings = cluster.try_create(object).await;
    assert_eq!(warnings, Ok(Vec::new()), "{} {}", object["kind"], object["metadata"]["name"]);
}

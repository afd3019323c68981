//! Through the gateway, no request fails, whatever happens to the pods behind it, and while its own pods are replaced.

mod killed;
mod outage;
mod routes;

use std::sync::Arc;

use serde_json::json;
use test_support::cluster::{SOON, eventually, image};

pub use self::{
    killed::killed_pods_fail_no_repeatable_request,
    outage::an_api_server_outage_fails_no_request,
    routes::{route_changes_take_effect_immediately, the_older_of_two_services_keeps_its_path},
};
use crate::{
    release::{Release, SERVICES, next},
    rollouts::{delete_all, evict_all, none_failed},
    tool::{Load, Tool, probe, summary},
    traffic::counts,
};

/// Requests a second.
const RATE: u32 = 500;

/// A Service distributes connections, the gateway requests.
pub async fn requests_of_one_connection_reach_every_pod(on: Arc<Release>) {
    on.upgrade_to(2, &[]).await;
    let before = counts(&on).await;
    let url = "http://gateway:8080/inventory/e2e";
    let arguments = ["load", "--duration", "5s", "--connections", "1", "--rate", "100", "--get", url];
    let (succeeded, log) = Tool::start(&on, &arguments, false).await.end().await;
    let summary = summary(&log);
    assert!(succeeded, "{summary:?}");
    let after = counts(&on).await;
    let shares: Vec<f64> = after.iter().map(|(pod, count)| count - before.get(pod).unwrap_or(&0.0)).collect();
    println!("requests by pod: {shares:?}");
    assert_eq!(shares.len(), 2);
    assert!(shares.iter().all(|share| *share > shares.iter().sum::<f64>() * 0.3), "{shares:?}");
    on.upgrade(&[]).await.expect("an upgrade");
}

pub async fn upgrading_gateway_or_services_fails_no_request(on: Arc<Release>) {
    on.upgrade_to(2, &[]).await;
    for name in SERVICES {
        let load = Load::through_gateway(&on, RATE).await;
        for image in [next(name), image(name)] {
            on.upgrade_to(2, &[&format!("services.{name}.image={}", json!(image))]).await;
            on.runs(name, &image).await;
        }
        none_failed(&format!("upgrade and rollback of {name}"), &load.stop().await, RATE);
    }
    on.upgrade(&[]).await.expect("an upgrade");
}

pub async fn replacing_gateway_or_service_pods_fails_no_request(on: Arc<Release>) {
    on.upgrade_to(2, &[]).await;
    for name in SERVICES {
        let load = Load::through_gateway(&on, RATE).await;
        evict_all(&on, name).await;
        delete_all(&on, name).await;
        none_failed(&format!("evictions and deletions of {name}"), &load.stop().await, RATE);
    }
    on.upgrade(&[]).await.expect("an upgrade");
}

pub async fn scaling_down_fails_no_request(on: Arc<Release>) {
    on.upgrade_to(4, &[]).await;
    for name in SERVICES {
        on.wait(name, "four ready pods", |object| {
            object.status.as_ref().is_some_and(|status| status.ready_replicas == 4)
        })
        .await;
    }
    let load = Load::through_gateway(&on, RATE).await;
    on.upgrade_to(2, &[]).await;
    for name in SERVICES {
        on.wait(name, "two pods", |object| object.status.as_ref().is_some_and(|status| status.replicas == 2)).await;
    }
    none_failed("scaling from four pods to two", &load.stop().await, RATE);
    on.upgrade(&[]).await.expect("an upgrade");
}

/// Clients outside the cluster cannot reach a `ClusterIP`, but they can reach a port of a node.
pub async fn a_node_port_is_reachable_from_outside(on: Arc<Release>) {
    let read = async |path: &str| {
        let arguments = ["get", "service", "gateway", "-o", &format!("jsonpath={path}")];
        on.kubectl(&arguments).await.expect("the Service").trim().to_owned()
    };
    // What is reachable from outside must be locked.
    let service = r#"services.gateway.service={"type":"NodePort"}"#;
    assert!(on.upgrade(&[service]).await.expect_err("an open gateway").contains("auth: {mode: required}"));
    let required = r#"auth.mode="required""#;
    let refusal = on.upgrade(&[service, required]).await.expect_err("the pods that run are open");
    assert!(refusal.contains("Upgrade twice"), "{refusal}");
    on.upgrade(&[required]).await.expect("an upgrade");
    on.upgrade(&[service, required]).await.expect("an upgrade");
    eventually("the Service has a node port", SOON, async || read("{.spec.type}").await == "NodePort").await;
    let port = read("{.spec.ports[?(@.name==\"http\")].nodePort}").await;
    let nodes = ["get", "nodes", "-o", "jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}"];
    let node = on.kubectl(&nodes).await.expect("a node");
    let url = format!("tcp://{}:{port}", node.trim());
    // Nodes do not update at the same time.
    let (succeeded, output) = probe(&on, &["wait", &url], false).await;
    assert!(succeeded, "{url}: {output}");

    on.upgrade(&[]).await.expect("an upgrade");
    eventually("the Service is a ClusterIP again", SOON, async || read("{.spec.type}").await == "ClusterIP").await;
}

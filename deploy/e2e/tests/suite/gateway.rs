//! Through the gateway: whatever becomes of the pods behind it, and of its own when they are asked to go, no request
//! fails.

mod away;
mod killed;
mod routes;

use std::sync::Arc;

use serde_json::json;
use test_support::cluster::{SOON, eventually, image};

pub use self::{
    away::clients_do_not_notice_that_the_api_server_is_away,
    killed::killed_pods_fail_no_request_that_may_be_repeated,
    routes::{a_route_is_live_at_once_and_gone_at_once, the_older_of_two_keeps_its_path},
};
use crate::{
    release::{Release, SERVICES, next},
    rollouts::{delete_all, evict_all, none_failed},
    tool::{Load, Tool, probe, summary},
    traffic::counts,
};

/// Requests a second.
const RATE: u32 = 500;

/// A Service spreads connections; the gateway spreads requests.
pub async fn requests_of_one_connection_go_to_every_pod(on: Arc<Release>) {
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

pub async fn an_upgrade_behind_the_gateway_and_of_it_fails_no_request(on: Arc<Release>) {
    on.upgrade_to(2, &[]).await;
    for name in SERVICES {
        let load = Load::through_gateway(&on, RATE).await;
        for image in [next(name), image(name)] {
            on.upgrade_to(2, &[&format!("services.{name}.image={}", json!(image))]).await;
            on.runs(name, &image).await;
        }
        none_failed(&format!("an upgrade of {name}, and back"), &load.stop().await, RATE);
    }
    on.upgrade(&[]).await.expect("an upgrade");
}

pub async fn evictions_and_deletions_behind_the_gateway_and_of_it_fail_no_request(on: Arc<Release>) {
    on.upgrade_to(2, &[]).await;
    for name in SERVICES {
        let load = Load::through_gateway(&on, RATE).await;
        evict_all(&on, name).await;
        delete_all(&on, name).await;
        none_failed(&format!("evictions and deletions of {name}"), &load.stop().await, RATE);
    }
    on.upgrade(&[]).await.expect("an upgrade");
}

pub async fn fewer_pods_fail_no_request(on: Arc<Release>) {
    on.upgrade_to(4, &[]).await;
    for name in SERVICES {
        on.wait(name, "four pods", |object| object.status.as_ref().is_some_and(|status| status.ready_replicas == 4))
            .await;
    }
    let load = Load::through_gateway(&on, RATE).await;
    on.upgrade_to(2, &[]).await;
    for name in SERVICES {
        on.wait(name, "two pods", |object| object.status.as_ref().is_some_and(|status| status.replicas == 2)).await;
    }
    none_failed("from four pods to two", &load.stop().await, RATE);
    on.upgrade(&[]).await.expect("an upgrade");
}

/// Who is not in the cluster has no Service's address; a node's is as good.
pub async fn a_node_port_leads_in_from_outside(on: Arc<Release>) {
    let read = async |path: &str| {
        let arguments = ["get", "service", "gateway", "-o", &format!("jsonpath={path}")];
        on.kubectl(&arguments).await.expect("it is read").trim().to_owned()
    };
    on.upgrade(&[r#"services.gateway.service={"type":"NodePort"}"#]).await.expect("an upgrade");
    eventually("the Service has a port of the nodes", SOON, async || read("{.spec.type}").await == "NodePort").await;
    let port = read("{.spec.ports[?(@.name==\"http\")].nodePort}").await;
    let nodes = ["get", "nodes", "-o", "jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}"];
    let node = on.kubectl(&nodes).await.expect("a node");
    let url = format!("http://{}:{port}/inventory/e2e", node.trim());
    // Each node follows in its own time.
    let (answered, seen) = probe(&on, &["wait", &url], false).await;
    assert!(answered, "{url}: {seen}");

    on.upgrade(&[]).await.expect("an upgrade");
    eventually("the Service is as before", SOON, async || read("{.spec.type}").await == "ClusterIP").await;
}

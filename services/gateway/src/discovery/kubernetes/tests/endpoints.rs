//! How services and their endpoints follow the objects of the API server.

use serde_json::{Value, json};
use test_support::api_server::ApiServer;

use super::{
    BOTH, Cluster, SERVICES, SLICES, orders_and_users, paths, ready, service, slice, starting, terminated, terminating,
};

#[tokio::test(start_paused = true)]
async fn services_and_endpoints_are_added_changed_and_removed() {
    let cluster = Cluster::new(orders_and_users());
    cluster.until_addresses(BOTH).await;
    let server = &cluster.server;
    service(server, "carts", "2026-01-03T00:00:00Z", r#"{"paths":["/v1/carts/"],"grpc":true}"#);
    slice(server, "carts-1", "carts", "IPv4", &[("10.0.0.3", ready())]);
    let services = cluster.until(|services| services.len() == 3 && !services[0].http.is_empty()).await;
    assert_eq!(services[0].paths, ["/v1/carts"]);
    assert_eq!(services[0].grpc, Some(vec!["10.0.0.3:50051".parse().expect("an address")]));
    assert_eq!(services[1].grpc, None, "gRPC is routed only if the annotation says so");

    service(server, "carts", "2026-01-03T00:00:00Z", &paths(&["/carts"]));
    cluster.until(|services| services[0].paths == ["/carts"] && services[0].grpc.is_none()).await;
    server.delete(&format!("{SLICES}/carts-1"));
    cluster.until(|services| services[0].http.is_empty()).await;
    server.delete(&format!("{SERVICES}/carts"));
    cluster.until_addresses(BOTH).await;

    let metadata = json!({ "name": "orders" });
    server.put(&format!("{SERVICES}/orders"), json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata }));
    cluster.until_addresses(&BOTH[1..]).await;
}

#[tokio::test(start_paused = true)]
async fn terminating_endpoints_are_used_only_if_none_is_ready() {
    let cluster = Cluster::new(ApiServer::default());
    let server = &cluster.server;
    service(server, "users", "2026-01-01T00:00:00Z", &paths(&["/users"]));
    slice(
        server,
        "one",
        "users",
        "IPv4",
        &[("10.0.0.1", ready()), ("10.0.0.2", terminating()), ("10.0.0.3", starting())],
    );
    cluster.until_addresses(&[("users", &["10.0.0.1:8080"])]).await;
    // Another slice of the same service.
    slice(server, "two", "users", "IPv4", &[("10.0.0.4", json!({}))]);
    cluster.until_addresses(&[("users", &["10.0.0.1:8080", "10.0.0.4:8080"])]).await;
    slice(
        server,
        "one",
        "users",
        "IPv4",
        &[("10.0.0.1", terminating()), ("10.0.0.2", terminated()), ("10.0.0.3", starting())],
    );
    cluster.until_addresses(&[("users", &["10.0.0.4:8080"])]).await;
    slice(server, "two", "users", "IPv4", &[("10.0.0.4", terminating())]);
    cluster.until_addresses(&[("users", &["10.0.0.1:8080", "10.0.0.4:8080"])]).await;
    slice(server, "two", "users", "IPv4", &[("10.0.0.4", terminated())]);
    slice(server, "one", "users", "IPv4", &[("10.0.0.3", ready())]);
    cluster.until_addresses(&[("users", &["10.0.0.3:8080"])]).await;
}

#[tokio::test(start_paused = true)]
async fn missing_endpoint_conditions_default_as_in_kubernetes() {
    let cluster = Cluster::new(ApiServer::default());
    service(&cluster.server, "users", "2026-01-01T00:00:00Z", &paths(&["/users"]));
    let not_ready = ("10.0.0.1", json!({ "ready": false }));
    let terminating = ("10.0.0.2", json!({ "ready": false, "terminating": true }));
    slice(&cluster.server, "one", "users", "IPv4", &[not_ready.clone(), terminating.clone()]);
    cluster.until_addresses(&[("users", &["10.0.0.2:8080"])]).await;
    let missing = ("10.0.0.3", Value::Null);
    slice(&cluster.server, "one", "users", "IPv4", &[not_ready, terminating, missing]);
    cluster.until_addresses(&[("users", &["10.0.0.3:8080"])]).await;
}

#[tokio::test(start_paused = true)]
async fn a_dual_stack_pod_is_one_endpoint() {
    let cluster = Cluster::new(ApiServer::default());
    service(&cluster.server, "users", "2026-01-01T00:00:00Z", &paths(&["/users"]));
    slice(&cluster.server, "six", "users", "IPv6", &[("fd00::1", ready())]);
    cluster.until_addresses(&[("users", &["[fd00::1]:8080"])]).await;
    slice(&cluster.server, "four", "users", "IPv4", &[("10.0.0.1", ready())]);
    cluster.until_addresses(&[("users", &["10.0.0.1:8080"])]).await;
    slice(&cluster.server, "names", "users", "FQDN", &[("example.org", ready())]);
    slice(&cluster.server, "twice", "users", "IPv4", &[("10.0.0.1", terminating()), ("10.0.0.2", ready())]);
    cluster.until_addresses(&[("users", &["10.0.0.1:8080", "10.0.0.2:8080"])]).await;
}

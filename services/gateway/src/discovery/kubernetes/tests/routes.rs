//! Which paths of the route annotations take effect.

use api::AuthMode;
use http::Method;
use test_support::api_server::ApiServer;

use super::{BOTH, Cluster, SERVICES, Service, orders_and_users, paths, ready, service, slice};

#[tokio::test(start_paused = true)]
async fn duplicate_paths_and_addresses_count_once() {
    let cluster = Cluster::new(ApiServer::default());
    service(&cluster.server, "users", "2026-01-01T00:00:00Z", &paths(&["/users", "/friends", "/users/"]));
    for name in ["one", "two"] {
        slice(&cluster.server, name, "users", "IPv4", &[("10.0.0.1", ready())]);
    }
    cluster.until_addresses(&[("users", &["10.0.0.1:8080"])]).await;
    assert_eq!(cluster.discovery.services.borrow()[0].paths, ["/friends", "/users"]);
    assert!(cluster.metric("gateway_conflicting_paths") < 0.5);
}

#[tokio::test(start_paused = true)]
async fn if_two_services_claim_a_path_the_older_one_wins() {
    let cluster = Cluster::new(ApiServer::default());
    let server = &cluster.server;
    service(server, "a-younger", "2026-01-02T00:00:00Z", &paths(&["/orders", "/its-own"]));
    cluster.until(|services| services.len() == 1 && services[0].paths == ["/its-own", "/orders"]).await;
    service(server, "older", "2026-01-01T00:00:00Z", &paths(&["/orders/", "/older"]));
    let services = cluster.until(|services| services.len() == 2 && services[0].paths == ["/its-own"]).await;
    assert_eq!(services[1].paths, ["/older", "/orders"]);
    assert!((cluster.metric("gateway_conflicting_paths") - 1.0).abs() < 0.5);
    // If both are of the same age, the name decides. A service without any path left has no route.
    service(server, "a-same-age", "2026-01-01T00:00:00Z", &paths(&["/orders"]));
    cluster
        .until(|services| services.len() == 3 && services[0].paths == ["/orders"] && services[2].paths == ["/older"])
        .await;
    service(server, "older", "2026-01-01T00:00:00Z", &paths(&["/orders"]));
    cluster.until(|services| services.len() == 2).await;
    server.delete(&format!("{SERVICES}/a-same-age"));
    cluster.until(|services| services.len() == 2 && services[1].paths == ["/orders"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_malformed_route_is_ignored_and_counted() {
    let server = orders_and_users();
    for (name, route) in [
        ("a", "/a"),
        ("b", r#"{"paths":[]}"#),
        ("c", r#"{"paths":["c"]}"#),
        ("d", r#"{"paths":["/fine","/a/../b"]}"#),
        ("e", r#"{"paths":"/e"}"#),
        ("f", r#"{"grpc":true}"#),
        ("g", r#"{"paths":["/g"],"idempotencyKeys":["g"]}"#),
    ] {
        service(&server, name, "2026-01-01T00:00:00Z", route);
    }
    service(&server, "z", "2026-01-01T00:00:00Z", r#"{"paths":["/z"],"of-a-later-version":1}"#);
    let cluster = Cluster::new(server);
    cluster.until_ready().await;
    cluster.until_addresses(&[BOTH[0], BOTH[1], ("z", &[])]).await;
    assert!((cluster.metric("gateway_malformed_routes") - 7.0).abs() < 0.5);
    service(&cluster.server, "a", "2026-01-01T00:00:00Z", &paths(&["/a"]));
    cluster.until_addresses(&[("a", &[]), BOTH[0], BOTH[1], ("z", &[])]).await;
    assert!((cluster.metric("gateway_malformed_routes") - 6.0).abs() < 0.5);
}

#[tokio::test(start_paused = true)]
async fn a_route_whose_rules_are_not_understood_keeps_its_paths_closed() {
    let server = orders_and_users();
    let of = |auth: &str| format!(r#"{{"paths":["/a"],"auth":{auth}}}"#);
    service(&server, "a", "2026-01-01T00:00:00Z", &of(r#"{"rules":[{"claims":{},"mode":"none"}]}"#));
    let cluster = Cluster::new(server);
    cluster.until_addresses(&[("a", &[]), BOTH[0], BOTH[1]]).await;
    let closed = |services: &[Service]| services[0].access.closed().map(str::to_owned);
    let reason = closed(&cluster.discovery.services.borrow()).expect("it is closed");
    assert!(reason.contains("unknown field `claims`"), "{reason}");
    assert!((cluster.metric("gateway_malformed_routes") - 1.0).abs() < 0.5);
    service(&cluster.server, "a", "2026-01-01T00:00:00Z", &of(r#"{"mode":"none"}"#));
    let services = cluster.until(|services| closed(services).is_none()).await;
    assert_eq!(services[0].access.find(&Method::GET, "/a").and_then(|found| found.mode), Some(AuthMode::None));
    assert!(cluster.metric("gateway_malformed_routes") < 0.5);
}

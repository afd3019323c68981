//! What the objects of a namespace come to, and what stays of it when the API server is away.
//!
//! The API server is in memory, so the clock may stand still while anybody has something to do: what takes time is what
//! waits for it.

use std::{sync::Arc, time::Duration};

use http::{Method, StatusCode};
use prometheus::Registry;
use serde_json::{Value, json};
use test_support::api_server::ApiServer;
use tokio::time;

use super::{super::Discovery, Metrics, changes, follow};
use crate::services::Service;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// A namespace and a gateway that looks at it.
struct Scene {
    server: ApiServer,
    registry: Registry,
    discovery: Discovery,
}

impl Scene {
    /// A gateway that begins to look at what the server has.
    fn new(server: ApiServer) -> Self {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).expect("metrics");
        let (publisher, discovery) = Discovery::new();
        tokio::spawn(follow(changes(&server.client(), "default", &metrics), metrics, publisher));
        Self { server, registry, discovery }
    }

    /// Waits until the services are such, for as long as a route may take to be live.
    async fn until(&self, such: impl FnMut(&Arc<[Service]>) -> bool) -> Arc<[Service]> {
        let mut services = self.discovery.services.clone();
        let found = time::timeout(Duration::from_secs(1), services.wait_for(such)).await;
        let found = found.map(|services| services.expect("it goes on").clone());
        found.unwrap_or_else(|_| panic!("still {:?}", self.discovery.services.borrow()))
    }

    /// Waits until the services have these names and first endpoints.
    async fn until_they_are(&self, wanted: &[(&str, &[&str])]) {
        self.until(|services| {
            let addresses = |service: &Service| service.http.iter().map(ToString::to_string).collect::<Vec<_>>();
            let is = |(service, (name, http)): (&Service, &(&str, &[&str]))| {
                service.name == *name && addresses(service) == *http
            };
            services.len() == wanted.len() && services.iter().zip(wanted).all(is)
        })
        .await;
    }

    /// The same, where a pause may come first.
    async fn until_caught_up(&self, such: impl FnMut(&Arc<[Service]>) -> bool) {
        let mut services = self.discovery.services.clone();
        let caught_up = time::timeout(Duration::from_secs(10), services.wait_for(such)).await;
        caught_up.expect("in time").expect("it goes on");
    }

    async fn until_ready(&self) {
        let mut complete = self.discovery.complete.clone();
        time::timeout(Duration::from_secs(1), complete.wait_for(|complete| *complete))
            .await
            .expect("in time")
            .expect("it goes on");
    }

    /// The sum of a metric's values.
    fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).expect("the metric");
        let value =
            |metric: &prometheus::proto::Metric| metric.get_gauge().get_value() + metric.get_counter().get_value();
        family.get_metric().iter().map(value).sum()
    }

    async fn until_it_failed(&self, times: f64) {
        let failed = async {
            while self.metric("gateway_discovery_failures_total") < times {
                time::sleep(Duration::from_millis(5)).await;
            }
        };
        time::timeout(Duration::from_secs(10), failed).await.expect("it fails in time");
    }
}

fn service(server: &ApiServer, name: &str, made: &str, route: &str) {
    let metadata = json!({ "name": name, "creationTimestamp": made, "annotations": { "hedgerow.dev/route": route } });
    server.put(&format!("{SERVICES}/{name}"), json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata }));
}

fn paths(paths: &[&str]) -> String {
    json!({ "paths": paths, "grpc": false }).to_string()
}

fn slice(server: &ApiServer, name: &str, of: &str, family: &str, endpoints: &[(&str, Value)]) {
    let endpoint = |(address, conditions): &(&str, Value)| json!({ "addresses": [address], "conditions": conditions });
    let ports = json!([
        { "name": "http", "port": 8080, "protocol": "TCP" },
        { "name": "grpc", "port": 50051, "protocol": "TCP" },
    ]);
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family, "ports": ports,
        "metadata": { "name": name, "labels": { "kubernetes.io/service-name": of } },
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    });
    server.put(&format!("{SLICES}/{name}"), slice);
}

fn ready() -> Value {
    json!({ "ready": true, "serving": true, "terminating": false })
}

fn ending() -> Value {
    json!({ "ready": false, "serving": true, "terminating": true })
}

fn starting() -> Value {
    json!({ "ready": false, "serving": false, "terminating": false })
}

fn ended() -> Value {
    json!({ "ready": false, "serving": false, "terminating": true })
}

/// Two services, each with an endpoint.
fn orders_and_users() -> ApiServer {
    let server = ApiServer::default();
    service(&server, "users", "2026-01-01T00:00:00Z", &paths(&["/users"]));
    service(&server, "orders", "2026-01-02T00:00:00Z", &paths(&["/orders"]));
    slice(&server, "users-1", "users", "IPv4", &[("10.0.0.1", ready())]);
    slice(&server, "orders-1", "orders", "IPv4", &[("10.0.0.2", ready())]);
    server
}

const BOTH: &[(&str, &[&str])] = &[("orders", &["10.0.0.2:8080"]), ("users", &["10.0.0.1:8080"])];

#[tokio::test(start_paused = true)]
async fn services_and_endpoints_come_change_and_go() {
    let scene = Scene::new(orders_and_users());
    scene.until_they_are(BOTH).await;
    let server = &scene.server;
    service(server, "carts", "2026-01-03T00:00:00Z", r#"{"paths":["/v1/carts/"],"grpc":true}"#);
    slice(server, "carts-1", "carts", "IPv4", &[("10.0.0.3", ready())]);
    let services = scene.until(|services| services.len() == 3 && !services[0].http.is_empty()).await;
    assert_eq!(services[0].paths, ["/v1/carts"]);
    assert_eq!(services[0].grpc, Some(vec!["10.0.0.3:50051".parse().expect("an address")]));
    assert_eq!(services[1].grpc, None, "only where the route says so");

    service(server, "carts", "2026-01-03T00:00:00Z", &paths(&["/carts"]));
    scene.until(|services| services[0].paths == ["/carts"] && services[0].grpc.is_none()).await;
    server.delete(&format!("{SLICES}/carts-1"));
    scene.until(|services| services[0].http.is_empty()).await;
    server.delete(&format!("{SERVICES}/carts"));
    scene.until_they_are(BOTH).await;

    let metadata = json!({ "name": "orders" });
    server.put(&format!("{SERVICES}/orders"), json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata }));
    scene.until_they_are(&BOTH[1..]).await;
}

#[tokio::test(start_paused = true)]
async fn an_ending_endpoint_is_used_only_where_none_is_ready() {
    let scene = Scene::new(ApiServer::default());
    let server = &scene.server;
    service(server, "users", "2026-01-01T00:00:00Z", &paths(&["/users"]));
    slice(server, "one", "users", "IPv4", &[("10.0.0.1", ready()), ("10.0.0.2", ending()), ("10.0.0.3", starting())]);
    scene.until_they_are(&[("users", &["10.0.0.1:8080"])]).await;
    // In another slice of the same service.
    slice(server, "two", "users", "IPv4", &[("10.0.0.4", json!({}))]);
    scene.until_they_are(&[("users", &["10.0.0.1:8080", "10.0.0.4:8080"])]).await;
    slice(server, "one", "users", "IPv4", &[("10.0.0.1", ending()), ("10.0.0.2", ended()), ("10.0.0.3", starting())]);
    scene.until_they_are(&[("users", &["10.0.0.4:8080"])]).await;
    slice(server, "two", "users", "IPv4", &[("10.0.0.4", ending())]);
    scene.until_they_are(&[("users", &["10.0.0.1:8080", "10.0.0.4:8080"])]).await;
    slice(server, "two", "users", "IPv4", &[("10.0.0.4", ended())]);
    slice(server, "one", "users", "IPv4", &[("10.0.0.3", ready())]);
    scene.until_they_are(&[("users", &["10.0.0.3:8080"])]).await;
}

#[tokio::test(start_paused = true)]
async fn what_the_conditions_of_an_endpoint_leave_unsaid_is_taken_as_kubernetes_has_it() {
    let scene = Scene::new(ApiServer::default());
    service(&scene.server, "users", "2026-01-01T00:00:00Z", &paths(&["/users"]));
    let not_ready = ("10.0.0.1", json!({ "ready": false }));
    let ending = ("10.0.0.2", json!({ "ready": false, "terminating": true }));
    slice(&scene.server, "one", "users", "IPv4", &[not_ready.clone(), ending.clone()]);
    scene.until_they_are(&[("users", &["10.0.0.2:8080"])]).await;
    let unsaid = ("10.0.0.3", Value::Null);
    slice(&scene.server, "one", "users", "IPv4", &[not_ready, ending, unsaid]);
    scene.until_they_are(&[("users", &["10.0.0.3:8080"])]).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_said_twice_counts_once() {
    let scene = Scene::new(ApiServer::default());
    service(&scene.server, "users", "2026-01-01T00:00:00Z", &paths(&["/users", "/friends", "/users/"]));
    for name in ["one", "two"] {
        slice(&scene.server, name, "users", "IPv4", &[("10.0.0.1", ready())]);
    }
    scene.until_they_are(&[("users", &["10.0.0.1:8080"])]).await;
    assert_eq!(scene.discovery.services.borrow()[0].paths, ["/friends", "/users"]);
    assert!(scene.metric("gateway_conflicting_paths") < 0.5);
}

#[tokio::test(start_paused = true)]
async fn a_pod_with_two_addresses_is_one_endpoint() {
    let scene = Scene::new(ApiServer::default());
    service(&scene.server, "users", "2026-01-01T00:00:00Z", &paths(&["/users"]));
    slice(&scene.server, "six", "users", "IPv6", &[("fd00::1", ready())]);
    scene.until_they_are(&[("users", &["[fd00::1]:8080"])]).await;
    slice(&scene.server, "four", "users", "IPv4", &[("10.0.0.1", ready())]);
    scene.until_they_are(&[("users", &["10.0.0.1:8080"])]).await;
    slice(&scene.server, "names", "users", "FQDN", &[("example.org", ready())]);
    slice(&scene.server, "twice", "users", "IPv4", &[("10.0.0.1", ending()), ("10.0.0.2", ready())]);
    scene.until_they_are(&[("users", &["10.0.0.1:8080", "10.0.0.2:8080"])]).await;
}

#[tokio::test(start_paused = true)]
async fn of_two_services_that_claim_one_path_the_older_has_it() {
    let scene = Scene::new(ApiServer::default());
    let server = &scene.server;
    service(server, "a-younger", "2026-01-02T00:00:00Z", &paths(&["/orders", "/its-own"]));
    scene.until(|services| services.len() == 1 && services[0].paths == ["/its-own", "/orders"]).await;
    service(server, "older", "2026-01-01T00:00:00Z", &paths(&["/orders/", "/older"]));
    let services = scene.until(|services| services.len() == 2 && services[0].paths == ["/its-own"]).await;
    assert_eq!(services[1].paths, ["/older", "/orders"]);
    assert!((scene.metric("gateway_conflicting_paths") - 1.0).abs() < 0.5);
    // Of twins the name decides; who is left without a path has no route.
    service(server, "a-twin", "2026-01-01T00:00:00Z", &paths(&["/orders"]));
    scene
        .until(|services| services.len() == 3 && services[0].paths == ["/orders"] && services[2].paths == ["/older"])
        .await;
    service(server, "older", "2026-01-01T00:00:00Z", &paths(&["/orders"]));
    scene.until(|services| services.len() == 2).await;
    server.delete(&format!("{SERVICES}/a-twin"));
    scene.until(|services| services.len() == 2 && services[1].paths == ["/orders"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_route_that_is_not_understood_is_ignored_and_shown() {
    let server = orders_and_users();
    for (name, route) in [
        ("a", "/a"),
        ("b", r#"{"paths":[]}"#),
        ("c", r#"{"paths":["c"]}"#),
        ("d", r#"{"paths":["/fine","/a/../b"]}"#),
        ("e", r#"{"paths":"/e"}"#),
        ("f", r#"{"grpc":true}"#),
    ] {
        service(&server, name, "2026-01-01T00:00:00Z", route);
    }
    service(&server, "z", "2026-01-01T00:00:00Z", r#"{"paths":["/z"],"of-a-later-version":1}"#);
    let scene = Scene::new(server);
    scene.until_ready().await;
    scene.until_they_are(&[BOTH[0], BOTH[1], ("z", &[])]).await;
    assert!((scene.metric("gateway_malformed_routes") - 6.0).abs() < 0.5);
    service(&scene.server, "a", "2026-01-01T00:00:00Z", &paths(&["/a"]));
    scene.until_they_are(&[("a", &[]), BOTH[0], BOTH[1], ("z", &[])]).await;
    assert!((scene.metric("gateway_malformed_routes") - 5.0).abs() < 0.5);
}

#[tokio::test(start_paused = true)]
async fn it_is_ready_once_both_kinds_are_known() {
    for kind in ["/services", "/endpointslices"] {
        let server = orders_and_users();
        server.refuse(Method::GET, kind, StatusCode::FORBIDDEN, "no");
        let scene = Scene::new(server);
        scene.until_it_failed(2.0).await;
        assert!(scene.discovery.ready().is_err(), "{kind}");
        let known = scene.discovery.services.borrow().len();
        assert_eq!(known, 0, "a service without its endpoints would be told to be down");
        scene.server.stop_refusing();
        scene.until_ready().await;
        scene.until_they_are(BOTH).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_known_last_stays_while_the_api_server_is_away() {
    let scene = Scene::new(orders_and_users());
    scene.until_they_are(BOTH).await;
    // Watches cannot be begun anew, nor lists made.
    scene.server.refuse(Method::GET, "", StatusCode::SERVICE_UNAVAILABLE, "away");
    scene.server.break_watches();
    scene.until_it_failed(6.0).await;
    scene.server.delete(&format!("{SERVICES}/orders"));
    scene.server.forget_history();
    assert!(scene.discovery.ready().is_ok() && scene.discovery.live().is_ok());
    scene.until_they_are(BOTH).await;
    scene.server.stop_refusing();
    scene.until_caught_up(|services| services.len() == 1).await;
    scene.until_they_are(&BOTH[1..]).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_answered_and_ends_at_once_is_a_failure_like_others() {
    let scene = Scene::new(orders_and_users());
    scene.until_they_are(BOTH).await;
    let _ = scene.server.take_requests();
    let begun = time::Instant::now();
    scene.server.end_watches();
    scene.until_it_failed(12.0).await;
    // That is one of the two watches six times, with five pauses in between.
    assert!(begun.elapsed() >= Duration::from_millis(50 + 100 + 200 + 400 + 800) / 2, "{:?}", begun.elapsed());
    let requests = scene.server.take_requests();
    assert!(requests.len() <= 12, "{requests:?}");
    scene.server.stop_ending_watches();
    scene.server.delete(&format!("{SERVICES}/orders"));
    scene.until_caught_up(|services| services.len() == 1).await;
    scene.until_they_are(&BOTH[1..]).await;
}

#[tokio::test(start_paused = true)]
async fn a_list_counts_once_it_is_complete() {
    let server = orders_and_users();
    for number in 0..150 {
        service(&server, &format!("a{number:03}"), "2026-01-03T00:00:00Z", &paths(&[&format!("/a{number:03}")]));
    }
    let scene = Scene::new(server);
    scene.until(|services| services.len() == 152).await;
    // A list has to be made anew, and breaks off after its first page.
    scene.server.refuse(Method::GET, "continue=", StatusCode::INTERNAL_SERVER_ERROR, "no more");
    scene.server.delete(&format!("{SERVICES}/a000"));
    scene.server.forget_history();
    scene.server.break_watches();
    scene.until_it_failed(6.0).await;
    assert!(scene.discovery.services.borrow().len() >= 151);
    // It was on that page.
    scene.server.delete(&format!("{SERVICES}/a002"));
    scene.server.stop_refusing();
    service(&scene.server, "a001", "2026-01-03T00:00:00Z", &paths(&["/changed"]));
    scene.until_caught_up(|services| services[0].paths == ["/changed"]).await;
    assert_eq!(scene.discovery.services.borrow().len(), 150);
}

#[tokio::test(start_paused = true)]
async fn it_asks_for_its_two_lists_and_watches_only() {
    let scene = Scene::new(orders_and_users());
    scene.until_they_are(BOTH).await;
    service(&scene.server, "carts", "2026-01-03T00:00:00Z", &paths(&["/carts"]));
    scene.until(|services| services.len() == 3).await;
    let requests = scene.server.take_requests();
    let count = |part: &str, watches: bool| {
        requests
            .iter()
            .filter(|(_, target)| target.starts_with(part) && target.contains("watch=true") == watches)
            .count()
    };
    let counts = [count(SERVICES, false), count(SERVICES, true), count(SLICES, false), count(SLICES, true)];
    assert_eq!((counts, requests.len()), ([1; 4], 4), "{requests:?}");
}

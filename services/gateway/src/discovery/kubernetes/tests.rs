//! Discovery against an in-memory API server. The clock is paused, so it advances only while all tasks are idle.

mod endpoints;
mod outages;
mod routes;

use std::{sync::Arc, time::Duration};

use prometheus::Registry;
use serde_json::{Value, json};
use test_support::api_server::ApiServer;
use tokio::time;

use super::{
    super::publisher::{self, Discovery},
    Metrics, changes, follow,
};
use crate::discovery::publisher::Service;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// A namespace and a gateway that discovers its services.
struct Cluster {
    server: ApiServer,
    registry: Registry,
    discovery: Discovery,
}

impl Cluster {
    /// Starts discovery against the server.
    fn new(server: ApiServer) -> Self {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).expect("metrics");
        let (publisher, discovery) = publisher::channel();
        tokio::spawn(follow(changes(&server.client(), "default", &metrics), metrics, publisher));
        Self { server, registry, discovery }
    }

    /// Waits until the condition holds, for as long as a new route may take to become active.
    async fn until(&self, condition: impl FnMut(&Arc<[Service]>) -> bool) -> Arc<[Service]> {
        let mut services = self.discovery.services.clone();
        let services = time::timeout(Duration::from_secs(1), services.wait_for(condition)).await;
        let services = services.map(|services| services.expect("an open channel").clone());
        services.unwrap_or_else(|_| panic!("still {:?}", self.discovery.services.borrow()))
    }

    /// Waits until these are all services, with these HTTP endpoints.
    async fn until_addresses(&self, expected: &[(&str, &[&str])]) {
        self.until(|services| {
            let addresses = |service: &Service| service.http.iter().map(ToString::to_string).collect::<Vec<_>>();
            let matches = |(service, (name, http)): (&Service, &(&str, &[&str]))| {
                service.name == *name && addresses(service) == *http
            };
            services.len() == expected.len() && services.iter().zip(expected).all(matches)
        })
        .await;
    }

    /// Like [`Self::until`], with time for a backoff pause.
    async fn until_recovered(&self, condition: impl FnMut(&Arc<[Service]>) -> bool) {
        let mut services = self.discovery.services.clone();
        let recovered = time::timeout(Duration::from_secs(10), services.wait_for(condition)).await;
        recovered.expect("in time").expect("an open channel");
    }

    async fn until_ready(&self) {
        let mut complete = self.discovery.complete.clone();
        time::timeout(Duration::from_secs(1), complete.wait_for(|complete| *complete))
            .await
            .expect("in time")
            .expect("an open channel");
    }

    /// The sum of a metric over its labels.
    fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).expect("the metric");
        let value =
            |metric: &prometheus::proto::Metric| metric.get_gauge().get_value() + metric.get_counter().get_value();
        family.get_metric().iter().map(value).sum()
    }

    async fn until_failures(&self, count: f64) {
        let failures = async {
            while self.metric("gateway_discovery_failures_total") < count {
                time::sleep(Duration::from_millis(5)).await;
            }
        };
        time::timeout(Duration::from_secs(10), failures).await.expect("failures in time");
    }
}

fn service(server: &ApiServer, name: &str, created: &str, route: &str) {
    let metadata =
        json!({ "name": name, "creationTimestamp": created, "annotations": { "hedgerow.dev/route": route } });
    server.put(&format!("{SERVICES}/{name}"), json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata }));
}

fn paths(paths: &[&str]) -> String {
    json!({ "paths": paths, "grpc": false }).to_string()
}

fn slice(server: &ApiServer, name: &str, service: &str, family: &str, endpoints: &[(&str, Value)]) {
    let endpoint = |(address, conditions): &(&str, Value)| json!({ "addresses": [address], "conditions": conditions });
    let ports = json!([
        { "name": "http", "port": 8080, "protocol": "TCP" },
        { "name": "grpc", "port": 50051, "protocol": "TCP" },
    ]);
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family, "ports": ports,
        "metadata": { "name": name, "labels": { "kubernetes.io/service-name": service } },
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    });
    server.put(&format!("{SLICES}/{name}"), slice);
}

fn ready() -> Value {
    json!({ "ready": true, "serving": true, "terminating": false })
}

fn terminating() -> Value {
    json!({ "ready": false, "serving": true, "terminating": true })
}

fn starting() -> Value {
    json!({ "ready": false, "serving": false, "terminating": false })
}

fn terminated() -> Value {
    json!({ "ready": false, "serving": false, "terminating": true })
}

/// Two services with one endpoint each.
fn orders_and_users() -> ApiServer {
    let server = ApiServer::default();
    service(&server, "users", "2026-01-01T00:00:00Z", &paths(&["/users"]));
    service(&server, "orders", "2026-01-02T00:00:00Z", &paths(&["/orders"]));
    slice(&server, "users-1", "users", "IPv4", &[("10.0.0.1", ready())]);
    slice(&server, "orders-1", "orders", "IPv4", &[("10.0.0.2", ready())]);
    server
}

const BOTH: &[(&str, &[&str])] = &[("orders", &["10.0.0.2:8080"]), ("users", &["10.0.0.1:8080"])];

//! Services that are created, change their paths and are deleted.

use std::{sync::Arc, time::Duration};

use api::Microservice;
use k8s_openapi::api::core::v1::Service;
use kube::{Api, api::DeleteParams};
use reqwest::StatusCode;
use serde_json::{Value, json};
use test_support::cluster::{SOON, image, is, message};
use tokio::time::{self, Instant};

use super::RATE;
use crate::{
    command::Running,
    release::Release,
    rollouts::none_failed,
    tool::{Load, names},
};

/// The deadline for a change to take effect.
const IMMEDIATE: Duration = Duration::from_secs(1);

/// Every pod of the gateway, each with a forwarded port.
pub struct GatewayPods {
    urls: Vec<String>,
    client: reqwest::Client,
    _forwards: Vec<Running>,
}

impl GatewayPods {
    pub async fn open(on: &Release) -> Self {
        let (mut urls, mut forwards) = (Vec::new(), Vec::new());
        for pod in names(&on.pods("gateway").await) {
            let (forward, url) = Running::forward_to(&on.name, &format!("pod/{pod}")).await;
            urls.push(url);
            forwards.push(forward);
        }
        Self { urls, client: reqwest::Client::new(), _forwards: forwards }
    }

    /// Waits until a response of each pod satisfies `condition`. Returns the time since `since`.
    pub async fn until(&self, path: &str, since: Instant, condition: impl Fn(StatusCode, &Value) -> bool) -> Duration {
        for url in &self.urls {
            loop {
                let response = self.client.get(format!("{url}{path}")).send().await.expect("a response");
                let (status, body) = (response.status(), response.json().await.unwrap_or_default());
                if condition(status, &body) {
                    break;
                }
                assert!(since.elapsed() < SOON, "{path} returns {status}: {body}");
                time::sleep(Duration::from_millis(10)).await;
            }
        }
        since.elapsed()
    }

    /// Waits until the service of that name serves the path.
    pub async fn until_served(&self, path: &str, by: &str, since: Instant) -> Duration {
        self.until(path, since, |status, body| status == StatusCode::OK && body["service"] == by).await
    }

    /// Waits until no service serves the path.
    pub async fn until_gone(&self, path: &str, since: Instant) -> Duration {
        self.until(path, since, |status, _| status == StatusCode::NOT_FOUND).await
    }
}

/// Measures up to three times, until the best time of each step is within its limit. Operator, API server, gateway and
/// `kubectl` are all involved, and a pause in any of them must not fail the test.
async fn within_limits<const N: usize>(limits: [Duration; N], measure: impl AsyncFn() -> [Duration; N]) {
    let mut best = [Duration::MAX; N];
    for _ in 0..3 {
        for (best, took) in best.iter_mut().zip(measure().await) {
            *best = took.min(*best);
        }
        if best.iter().zip(limits).all(|(best, limit)| *best < limit) {
            return;
        }
    }
    panic!("the best times are {best:?}, the limits {limits:?}");
}

/// The spec of a service with these paths that responds with its name.
pub fn echo(name: &str, paths: &[&str]) -> Value {
    let mut spec = json!({
        "image": image("e2e"), "env": [{ "name": "NAME", "value": name }], "scaling": { "min": 2, "max": 2 },
    });
    if !paths.is_empty() {
        spec["route"] = json!({ "paths": paths });
    }
    spec
}

pub async fn route_changes_take_effect_immediately(on: Arc<Release>) {
    let gateways = GatewayPods::open(&on).await;
    gateways.until_gone("/echo/1", Instant::now()).await;
    let load = Load::through_gateway(&on, RATE).await;
    // A new service is routed within two seconds of being ready.
    let limits = [IMMEDIATE * 2, IMMEDIATE, IMMEDIATE, IMMEDIATE, IMMEDIATE];
    within_limits(limits, async || measure_changes(&on, &gateways).await).await;
    none_failed("changes of routes", &load.stop().await, RATE);
}

/// The time that each change takes, from the creation of a service to its deletion.
async fn measure_changes(on: &Release, gateways: &GatewayPods) -> [Duration; 5] {
    on.apply("echo", echo("echo", &["/echo"])).await;
    on.ready("echo").await;
    let routed = gateways.until_served("/echo/1", "echo", Instant::now()).await;
    println!("ready to routed: {routed:?}");

    on.apply("echo", echo("echo", &["/other"])).await;
    let since = Instant::now();
    let (live, gone) =
        (gateways.until_served("/other", "echo", since).await, gateways.until_gone("/echo/1", since).await);
    println!("changed path: new path live after {live:?}, old path gone after {gone:?}");

    on.apply("echo", echo("echo", &[])).await;
    let unrouted = gateways.until_gone("/other", Instant::now()).await;
    println!("route removed: path gone after {unrouted:?}");

    on.apply("echo", echo("echo", &["/echo"])).await;
    gateways.until_served("/echo/2", "echo", Instant::now()).await;
    on.delete("echo").await;
    let deleted = gateways.until_gone("/echo/2", Instant::now()).await;
    println!("service deleted: path gone after {deleted:?}");
    [routed, live, gone, unrouted, deleted]
}

pub async fn the_older_of_two_services_keeps_its_path(on: Arc<Release>) {
    let gateways = GatewayPods::open(&on).await;
    on.apply("older", echo("older", &["/claimed"])).await;
    on.ready("older").await;
    // If both were created in the same second, the name would decide.
    time::sleep(IMMEDIATE).await;
    on.apply("a-younger", echo("a-younger", &["/claimed", "/its-own"])).await;
    let rejected = |object: &Microservice| is(object, "RouteAccepted", "False", "RouteConflict");
    let object = on.wait("a-younger", "its route is rejected", rejected).await;
    println!("a-younger: {}", message(&object, "RouteAccepted"));
    assert!(message(&object, "RouteAccepted").contains("/claimed belongs to older"));
    gateways.until_served("/its-own", "a-younger", Instant::now()).await;
    // The operator does not manage this Service, so the gateway has to decide.
    let annotations = json!({ "hedgerow.dev/route": r#"{"paths":["/claimed"]}"# });
    let stranger = json!({
        "metadata": { "name": "a-stranger", "annotations": annotations },
        "spec": { "selector": { "app.kubernetes.io/name": "a-younger" }, "ports": [{ "name": "http", "port": 8080 }] },
    });
    on.create::<Service>(stranger).await;
    let since = Instant::now();
    while since.elapsed() < IMMEDIATE {
        gateways.until_served("/claimed", "older", Instant::now()).await;
        time::sleep(Duration::from_millis(20)).await;
    }
    let services: Api<Service> = on.api();
    services.delete("a-stranger", &DeleteParams::default()).await.expect("the Service is deleted");

    within_limits([IMMEDIATE], async || {
        on.apply("older", echo("older", &["/claimed"])).await;
        on.wait("a-younger", "its route is rejected", rejected).await;
        gateways.until_served("/claimed", "older", Instant::now()).await;
        on.apply("older", echo("older", &[])).await;
        let took = gateways.until_served("/claimed", "a-younger", Instant::now()).await;
        println!("released by the older, served by the younger after {took:?}");
        on.wait("a-younger", "its route is accepted", |object| is(object, "RouteAccepted", "True", "Accepted")).await;
        [took]
    })
    .await;
    for name in ["older", "a-younger"] {
        on.delete(name).await;
    }
}

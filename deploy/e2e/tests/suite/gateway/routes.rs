//! Services that come, change their paths and go.

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

/// How soon a change is live.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Every pod of the gateway, each by a port of its own.
pub struct Doors {
    urls: Vec<String>,
    client: reqwest::Client,
    _forwards: Vec<Running>,
}

impl Doors {
    pub async fn open(on: &Release) -> Self {
        let (mut urls, mut forwards) = (Vec::new(), Vec::new());
        for pod in names(&on.pods("gateway").await) {
            let (forward, url) = Running::forward_to(&on.name, &format!("pod/{pod}")).await;
            urls.push(url);
            forwards.push(forward);
        }
        Self { urls, client: reqwest::Client::new(), _forwards: forwards }
    }

    /// Waits until each of them answers so; how long after `since` that was.
    pub async fn until(&self, path: &str, since: Instant, such: impl Fn(StatusCode, &Value) -> bool) -> Duration {
        for url in &self.urls {
            loop {
                let answer = self.client.get(format!("{url}{path}")).send().await.expect("an answer");
                let (status, body) = (answer.status(), answer.json().await.unwrap_or_default());
                if such(status, &body) {
                    break;
                }
                assert!(since.elapsed() < SOON, "{path} is answered with {status}: {body}");
                time::sleep(Duration::from_millis(10)).await;
            }
        }
        since.elapsed()
    }

    /// The same for an answer of the service of that name.
    pub async fn until_served(&self, path: &str, by: &str, since: Instant) -> Duration {
        self.until(path, since, |status, body| status == StatusCode::OK && body["service"] == by).await
    }

    /// The same for a path that nobody has.
    pub async fn until_gone(&self, path: &str, since: Instant) -> Duration {
        self.until(path, since, |status, _| status == StatusCode::NOT_FOUND).await
    }
}

/// Takes times until each of them has been within its limit, three times at most. Operator, API server, gateway and
/// `kubectl` are all on the way, and a pause of any would be taken for the product's.
async fn in_time<const N: usize>(limits: [Duration; N], take: impl AsyncFn() -> [Duration; N]) {
    let mut best = [Duration::MAX; N];
    for _ in 0..3 {
        for (best, took) in best.iter_mut().zip(take().await) {
            *best = took.min(*best);
        }
        if best.iter().zip(limits).all(|(best, limit)| *best < limit) {
            return;
        }
    }
    panic!("at best {best:?}, not {limits:?}");
}

/// A service that has these paths and says its name.
pub fn echo(name: &str, paths: &[&str]) -> Value {
    let mut spec = json!({
        "image": image("e2e"), "env": [{ "name": "NAME", "value": name }], "scaling": { "min": 2, "max": 2 },
    });
    if !paths.is_empty() {
        spec["route"] = json!({ "paths": paths });
    }
    spec
}

pub async fn a_route_is_live_at_once_and_gone_at_once(on: Arc<Release>) {
    let doors = Doors::open(&on).await;
    doors.until_gone("/echo/1", Instant::now()).await;
    let load = Load::through_gateway(&on, RATE).await;
    // A new service is routed within 2 s of being ready.
    let limits = [AT_ONCE * 2, AT_ONCE, AT_ONCE, AT_ONCE, AT_ONCE];
    in_time(limits, async || come_and_go(&on, &doors).await).await;
    none_failed("routes that come and go", &load.stop().await, RATE);
}

/// What each change of a service took, from none to none.
async fn come_and_go(on: &Release, doors: &Doors) -> [Duration; 5] {
    on.apply("echo", echo("echo", &["/echo"])).await;
    on.ready("echo").await;
    let routed = doors.until_served("/echo/1", "echo", Instant::now()).await;
    println!("ready to routed: {routed:?}");

    on.apply("echo", echo("echo", &["/other"])).await;
    let since = Instant::now();
    let (live, gone) = (doors.until_served("/other", "echo", since).await, doors.until_gone("/echo/1", since).await);
    println!("another path: live after {live:?}, the one before gone after {gone:?}");

    on.apply("echo", echo("echo", &[])).await;
    let unrouted = doors.until_gone("/other", Instant::now()).await;
    println!("no route: gone after {unrouted:?}");

    on.apply("echo", echo("echo", &["/echo"])).await;
    doors.until_served("/echo/2", "echo", Instant::now()).await;
    on.delete("echo").await;
    let deleted = doors.until_gone("/echo/2", Instant::now()).await;
    println!("no service: gone after {deleted:?}");
    [routed, live, gone, unrouted, deleted]
}

pub async fn the_older_of_two_keeps_its_path(on: Arc<Release>) {
    let doors = Doors::open(&on).await;
    on.apply("older", echo("older", &["/claimed"])).await;
    on.ready("older").await;
    // Of two that are made in the same second the name would decide.
    time::sleep(AT_ONCE).await;
    on.apply("a-younger", echo("a-younger", &["/claimed", "/its-own"])).await;
    let refused = |object: &Microservice| is(object, "RouteAccepted", "False", "RouteConflict");
    let object = on.wait("a-younger", "its route is refused", refused).await;
    println!("a-younger: {}", message(&object, "RouteAccepted"));
    assert!(message(&object, "RouteAccepted").contains("/claimed belongs to older"));
    doors.until_served("/its-own", "a-younger", Instant::now()).await;
    // A Service that the operator knows nothing of: the gateway itself decides.
    let annotations = json!({ "hedgerow.dev/route": r#"{"paths":["/claimed"]}"# });
    let stranger = json!({
        "metadata": { "name": "a-stranger", "annotations": annotations },
        "spec": { "selector": { "app.kubernetes.io/name": "a-younger" }, "ports": [{ "name": "http", "port": 8080 }] },
    });
    on.create::<Service>(stranger).await;
    let since = Instant::now();
    while since.elapsed() < AT_ONCE {
        doors.until_served("/claimed", "older", Instant::now()).await;
        time::sleep(Duration::from_millis(20)).await;
    }
    let services: Api<Service> = on.api();
    services.delete("a-stranger", &DeleteParams::default()).await.expect("it is deleted");

    in_time([AT_ONCE], async || {
        on.apply("older", echo("older", &["/claimed"])).await;
        on.wait("a-younger", "its route is refused", refused).await;
        doors.until_served("/claimed", "older", Instant::now()).await;
        on.apply("older", echo("older", &[])).await;
        let took = doors.until_served("/claimed", "a-younger", Instant::now()).await;
        println!("given up by the older, and the younger's after {took:?}");
        on.wait("a-younger", "its route is accepted", |object| is(object, "RouteAccepted", "True", "Accepted")).await;
        [took]
    })
    .await;
    for name in ["older", "a-younger"] {
        on.delete(name).await;
    }
}

//! An API server that is away, for the gateway.
//!
//! The suite cannot take the cluster's own away on every cluster, and it would see nothing of what happens then. So the
//! gateway alone loses it: it is told to ask a relay, which is taken away. To its TLS the relay is the API server, as it
//! is reached by a name that the API server's certificate has, `kubernetes`: a Service of this name in the release's
//! namespace. What it shows is that the gateway needs nobody; that pods, too, live on is the cluster's affair.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
    runtime::wait::await_condition,
};
use serde_json::{Value, json};
use test_support::cluster::{SOON, eventually, image, within};
use tokio::time::{Instant, sleep};

use super::{
    RATE,
    killed::Killer,
    routes::{Doors, echo},
};
use crate::{
    release::Release,
    rollouts::none_failed,
    tool::{Load, Tool, is_ready, names},
};

const RELAY: &str = "e2e-relay";
/// How long it is away.
const AWAY: Duration = Duration::from_mins(1);
/// How soon the gateway knows what happened meanwhile: a connection that is given up after 2 s, the longest pause between
/// two tries, 2 s as well, and some for the relay's new pod to be known.
const CAUGHT_UP: Duration = Duration::from_secs(10);

pub async fn clients_do_not_notice_that_the_api_server_is_away(on: Arc<Release>) {
    let service = json!({
        "metadata": { "name": "kubernetes" },
        "spec": { "selector": { "app": RELAY }, "ports": [{ "port": 443, "targetPort": 6443 }] },
    });
    on.create::<Service>(service).await;
    start_relay(&on).await;
    let env = json!([
        { "name": "KUBERNETES_SERVICE_HOST", "value": "kubernetes" },
        { "name": "KUBERNETES_SERVICE_PORT", "value": "443" },
    ]);
    // The gateway is ready by the relay alone.
    on.upgrade_to(2, &[&format!("services.gateway.env={env}")]).await;
    let doors = Doors::open(&on).await;
    let killer = Killer::prepare(&on, "away").await;
    let before = on.running().await;
    let load = Load::through_gateway(&on, RATE).await;

    let pods: Api<Pod> = on.api();
    pods.delete(RELAY, &DeleteParams::default().grace_period(0)).await.expect("it is killed");
    let since = Instant::now();
    eventually("every gateway has noticed", SOON, async || failures(&on).await.into_iter().all(|count| count > 2.0))
        .await;
    println!("noticed after {:?}", since.elapsed());
    on.apply("echo", echo("echo", &["/echo"])).await;
    on.ready("echo").await;
    sleep(AWAY.saturating_sub(since.elapsed())).await;
    doors.until_gone("/echo", Instant::now()).await;
    for pod in on.pods("gateway").await {
        assert!(is_ready(&pod), "the gateway stays ready");
    }
    none_failed("the API server is away", &load.stop().await, RATE);

    // Nor does a pod that dies meanwhile matter to whoever may repeat a request.
    let gets = ["--get", "http://gateway:8080/users?limit=1"].map(str::to_owned);
    let load = Load::of(Tool::start_load(&on, gets, "30m", RATE).await).await;
    killer.kill(&on, &on.pods("users").await[0]).await;
    none_failed("and a pod is killed", &load.stop().await, RATE);

    start_relay(&on).await;
    let took = doors.until_served("/echo", "echo", Instant::now()).await;
    println!("caught up after {took:?}");
    assert!(took < CAUGHT_UP, "{took:?}");
    on.delete("echo").await;
    let after = on.running().await;
    for pod in names(&on.pods("gateway").await) {
        assert_eq!(before[&pod], after[&pod], "no gateway was restarted");
    }
    on.upgrade(&[]).await.expect("an upgrade");
    pods.delete(RELAY, &DeleteParams::default()).await.expect("it is deleted");
    on.api::<Service>().delete("kubernetes", &DeleteParams::default()).await.expect("it is deleted");
    killer.remove().await;
}

/// The failures that each gateway has counted.
async fn failures(on: &Release) -> Vec<f64> {
    let mut all = Vec::new();
    for pod in names(&on.pods("gateway").await) {
        let metrics = on.metrics(&pod).await;
        let counted = metrics.lines().filter(|line| line.starts_with("gateway_discovery_failures_total"));
        all.push(counted.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum());
    }
    all
}

async fn start_relay(on: &Release) {
    let pods: Api<Pod> = on.api();
    // Of the one before something may be left.
    let gone = |pod: Option<&Pod>| pod.is_none();
    within("a relay's end", await_condition(pods.clone(), RELAY, gone)).await.expect("it is gone");
    let pod: Value = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": RELAY, "labels": { "app": RELAY } },
        "spec": {
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" },
            },
            "containers": [{
                "name": "main", "image": image("e2e"), "imagePullPolicy": "IfNotPresent",
                "args": ["relay", "--to", "kubernetes.default.svc:443"],
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
            }],
        },
    });
    let pod: Pod = serde_json::from_value(pod).expect("a pod");
    pods.create(&PostParams::default(), &pod).await.expect("it is taken");
    let ready = |pod: Option<&Pod>| pod.is_some_and(is_ready);
    within("a relay", await_condition(pods, RELAY, ready)).await.expect("it starts");
}

//! An outage of the API server, as the gateway sees it.
//!
//! The suite cannot stop the real API server: not every cluster allows that, and the suite needs it. Instead, the
//! gateway reaches it through a relay, which is then deleted. TLS works through the relay, because a Service in the
//! namespace of the release has the name `kubernetes`, which is in the API server's certificate. This tests the gateway
//! only: that pods keep running is up to the cluster.

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
    routes::{GatewayPods, echo},
};
use crate::{
    release::Release,
    rollouts::none_failed,
    tool::{Load, Tool, is_ready, names},
};

const RELAY: &str = "e2e-relay";
/// How long the outage lasts.
const OUTAGE: Duration = Duration::from_mins(1);
/// The deadline for the gateway to catch up afterwards: 2 s until a connection attempt times out, up to 2 s of backoff,
/// and the time until the relay's new pod is an endpoint.
const CATCH_UP: Duration = Duration::from_secs(10);

pub async fn an_api_server_outage_fails_no_request(on: Arc<Release>) {
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
    // The gateway only becomes ready if the relay works.
    on.upgrade_to(2, &[&format!("services.gateway.env={env}")]).await;
    let gateways = GatewayPods::open(&on).await;
    let killer = Killer::prepare(&on, "outage").await;
    let before = on.running().await;
    let load = Load::through_gateway(&on, RATE).await;

    let pods: Api<Pod> = on.api();
    pods.delete(RELAY, &DeleteParams::default().grace_period(0)).await.expect("the relay is deleted");
    let since = Instant::now();
    eventually("every gateway pod has noticed", SOON, async || {
        failures(&on).await.into_iter().all(|count| count > 2.0)
    })
    .await;
    println!("noticed after {:?}", since.elapsed());
    on.apply("echo", echo("echo", &["/echo"])).await;
    on.ready("echo").await;
    sleep(OUTAGE.saturating_sub(since.elapsed())).await;
    gateways.until_gone("/echo", Instant::now()).await;
    for pod in on.pods("gateway").await {
        assert!(is_ready(&pod), "the gateway stays ready");
    }
    none_failed("outage of the API server", &load.stop().await, RATE);

    // A pod killed during the outage fails no repeatable request either.
    let gets = ["--get", "http://gateway:8080/users?limit=1"].map(str::to_owned);
    let load = Load::of(Tool::start_load(&on, gets, "30m", RATE).await).await;
    killer.kill(&on, &on.pods("users").await[0]).await;
    none_failed("a pod killed during the outage", &load.stop().await, RATE);

    start_relay(&on).await;
    let took = gateways.until_served("/echo", "echo", Instant::now()).await;
    println!("caught up after {took:?}");
    assert!(took < CATCH_UP, "it took {took:?}");
    on.delete("echo").await;
    let after = on.running().await;
    for pod in names(&on.pods("gateway").await) {
        assert_eq!(before[&pod], after[&pod], "gateway pod {pod} was restarted or replaced");
    }
    on.upgrade(&[]).await.expect("an upgrade");
    pods.delete(RELAY, &DeleteParams::default()).await.expect("the relay is deleted");
    on.api::<Service>().delete("kubernetes", &DeleteParams::default()).await.expect("the Service is deleted");
    killer.remove().await;
}

/// The discovery failures that each gateway pod has counted.
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
    // The previous relay may still be terminating.
    let gone = |pod: Option<&Pod>| pod.is_none();
    within("the previous relay is gone", await_condition(pods.clone(), RELAY, gone)).await.expect("the watch succeeds");
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
    pods.create(&PostParams::default(), &pod).await.expect("the API server accepts it");
    let ready = |pod: Option<&Pod>| pod.is_some_and(is_ready);
    within("the relay is ready", await_condition(pods, RELAY, ready)).await.expect("the watch succeeds");
}

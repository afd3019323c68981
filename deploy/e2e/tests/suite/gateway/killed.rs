//! Pods whose processes are killed without warning.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::LogParams, runtime::wait::await_condition};
use serde_json::json;
use test_support::cluster::{Namespace, SOON, eventually, image, within};

use crate::{
    release::Release,
    rollouts::none_failed,
    together::set,
    tool::{Load, Tool, is_ready},
};

/// Requests per second of each of the two loads.
const RATE: u32 = 250;

/// Kills each pod of both services, one after the other. The gateway may send a GET to another pod, and a POST with an
/// `Idempotency-Key` too, which still takes effect once.
pub async fn killed_pods_fail_no_repeatable_request(on: Arc<Release>) {
    on.upgrade_to(2, &[]).await;
    let killer = Killer::prepare(&on, "killed").await;
    set(&on, "killed", 1_000_000).await;
    let gateway = "http://gateway:8080";
    let reads = [format!("--get={gateway}/users?limit=1"), format!("--get={gateway}/inventory/killed")];
    let hold = r#"--body={"items":[{"product_id":"killed","quantity":1}]}"#;
    let holds = [format!("--post={gateway}/reservations"), hold.to_owned(), "--idempotency-keys".to_owned()];
    let gets = Load::of(Tool::start_load(&on, reads, "30m", RATE).await).await;
    let posts = Load::of(Tool::start_load(&on, holds, "30m", RATE).await).await;
    for name in ["users", "inventory"] {
        for pod in on.pods(name).await {
            killer.kill(&on, &pod).await;
        }
    }
    let (read, reserved) = (gets.stop().await, posts.stop().await);
    none_failed("killed pods: GET", &read, RATE);
    none_failed("killed pods: POST with Idempotency-Key", &reserved, RATE);
    // Each took effect exactly once.
    let done = on.sql("inventory", "SELECT reserved FROM stock WHERE product_id = 'killed'").await;
    assert_eq!(done, Ok(reserved.requests.to_string()));
    killer.remove().await;
    on.upgrade(&[]).await.expect("an upgrade");
}

/// A namespace in which pods may kill the processes of others.
pub struct Killer {
    namespace: Namespace,
}

impl Killer {
    /// Creates a namespace for one case. Cases cannot share it, because the deletion of the previous one may take time.
    pub async fn prepare(on: &Release, case: &str) -> Self {
        Self { namespace: Namespace::create_enforcing(format!("{}-{case}", on.name), "privileged").await }
    }

    /// Deletes the namespace.
    pub async fn remove(&self) {
        self.namespace.remove().await;
    }

    /// Kills all processes of a pod from its node, and waits until the pod has restarted and is ready.
    pub async fn kill(&self, on: &Release, victim: &Pod) {
        let (name, uid) = (victim.name_any(), victim.uid().expect("its UID"));
        let before = restarts(victim);
        let killer = format!("of-{name}");
        let pod = json!({
            "metadata": { "name": killer },
            "spec": {
                "nodeName": victim.spec.as_ref().and_then(|spec| spec.node_name.as_ref()),
                "hostPID": true,
                "restartPolicy": "Never",
                "automountServiceAccountToken": false,
                "tolerations": [{ "operator": "Exists" }],
                "containers": [{
                    "name": "main", "image": image("e2e"), "imagePullPolicy": "IfNotPresent", "args": ["kill", uid],
                    "securityContext": { "runAsUser": 0, "capabilities": { "drop": ["ALL"], "add": ["KILL"] } },
                }],
            },
        });
        self.namespace.create::<Pod>(pod).await;
        let pods: Api<Pod> = self.namespace.api();
        let phase = |pod: Option<&Pod>| pod?.status.as_ref()?.phase.clone();
        let ended = |pod: Option<&Pod>| matches!(phase(pod).as_deref(), Some("Succeeded" | "Failed"));
        let pod = within("the killer pod ends", await_condition(pods.clone(), &killer, ended))
            .await
            .expect("the watch succeeds");
        let log = pods.logs(&killer, &LogParams::default()).await.expect("its log");
        println!("{name}: {}", log.trim());
        assert_eq!(phase(pod.as_ref()).as_deref(), Some("Succeeded"), "{log}");
        eventually("the pod has restarted", SOON, async || {
            let pod = on.api::<Pod>().get(&name).await.expect("the pod");
            restarts(&pod) > before && is_ready(&pod)
        })
        .await;
    }
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|status| status.restart_count).sum()
}

//! The suite's own pods: load and probes from inside the cluster, by the project's e2e image.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use futures_util::{AsyncBufReadExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, LogParams},
    runtime::wait::await_condition,
};
use serde_json::{Value, json};
use test_support::cluster::{Namespace, image, within};
use tokio::{task::JoinHandle, time};

use crate::release::ADMITTED;

/// What a load reports at its end.
#[derive(Debug, serde::Deserialize)]
#[expect(dead_code, reason = "the latencies are shown")]
pub struct Summary {
    pub requests: u64,
    pub rate: f64,
    pub failed: u64,
    /// By kind.
    pub failures: BTreeMap<String, u64>,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// A pod of the e2e image.
pub struct Tool {
    pods: Api<Pod>,
    name: String,
    log: JoinHandle<Vec<String>>,
}

impl Tool {
    /// Starts it; `admitted` by users and inventory, or not. One that is admitted waits until it is: a policy takes a
    /// moment to know the address of a new pod.
    pub async fn start(namespace: &Namespace, arguments: &[&str], admitted: bool) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let name = format!("e2e-{}", STARTED.fetch_add(1, Ordering::Relaxed));
        let label = if admitted { "admitted" } else { "stranger" };
        let container = |name: &str, arguments: &[&str]| {
            json!({
                "name": name, "image": image("e2e"), "imagePullPolicy": "IfNotPresent", "args": arguments,
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
            })
        };
        let waits = ["users", "inventory"]
            .map(|service| container(&format!("wait-{service}"), &["wait", &format!("tcp://{service}:8080")]));
        let pod = json!({
            "metadata": { "name": name, "labels": { ADMITTED: label } },
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": false,
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" },
                },
                "initContainers": if admitted { waits.to_vec() } else { Vec::new() },
                "containers": [container("main", arguments)],
            },
        });
        namespace.create::<Pod>(pod).await;
        let pods: Api<Pod> = namespace.api();
        let begun = |pod: Option<&Pod>| matches!(phase(pod), Some("Running" | "Succeeded" | "Failed"));
        within("a pod of the suite", await_condition(pods.clone(), &name, begun)).await.expect("it starts");
        let follow = LogParams { follow: true, ..LogParams::default() };
        let stream = pods.log_stream(&name, &follow).await.expect("its log");
        let log = tokio::spawn(stream.lines().filter_map(|line| async { line.ok() }).collect());
        Self { pods, name, log }
    }

    /// Load of these requests.
    pub async fn start_load<const N: usize>(
        namespace: &Namespace,
        requests: [String; N],
        duration: &str,
        rate: u32,
    ) -> Self {
        let rate = rate.to_string();
        let mut arguments = vec!["load", "--duration", duration, "--connections", "32", "--rate", &rate];
        arguments.extend(requests.iter().map(String::as_str));
        Self::start(namespace, &arguments, true).await
    }

    /// Waits for its end: whether it succeeded, and its log.
    pub async fn end(mut self) -> (bool, Vec<String>) {
        let ended = |pod: Option<&Pod>| matches!(phase(pod), Some("Succeeded" | "Failed"));
        let pod = within("the end of a pod of the suite", await_condition(self.pods.clone(), &self.name, ended))
            .await
            .expect("it ends");
        let log = (&mut self.log).await.expect("its log");
        (phase(pod.as_ref()) == Some("Succeeded"), log)
    }
}

/// The pod goes, though its case has failed.
impl Drop for Tool {
    fn drop(&mut self) {
        let (pods, name) = (self.pods.clone(), std::mem::take(&mut self.name));
        tokio::spawn(async move { pods.delete(&name, &DeleteParams::default()).await });
    }
}

fn phase(pod: Option<&Pod>) -> Option<&str> {
    pod?.status.as_ref()?.phase.as_deref()
}

/// Runs a probe to its end: whether it succeeded, and what it saw.
pub async fn probe(namespace: &Namespace, arguments: &[&str], admitted: bool) -> (bool, String) {
    let (succeeded, log) = Tool::start(namespace, arguments, admitted).await.end().await;
    (succeeded, log.join("\n"))
}

/// Requests to users and inventory, GET and POST, through their Services.
pub const BOTH: [&str; 10] = [
    "--get",
    "http://users:8080/users?limit=1",
    "--get",
    "http://inventory:8080/inventory/e2e",
    "--post",
    "http://users:8080/users",
    "--body",
    r#"{"name":"Load","email":"{uuid}@e2e.invalid"}"#,
    "--post",
    "http://inventory:8080/inventory/e2e",
];

/// The body of the last of [`BOTH`].
pub const STOCK: [&str; 2] = ["--body", r#"{"stock":1000}"#];

/// Load that goes on until it is told to stop.
pub struct Load(Tool);

impl Load {
    /// GET and POST on both services, 32 connections to each, no retries.
    pub async fn start(namespace: &Namespace, rate: u32) -> Self {
        let both: [&str; 12] = [&BOTH[..], &STOCK].concat().try_into().expect("twelve");
        Self::of(Tool::start_load(namespace, both.map(str::to_owned), "30m", rate).await).await
    }

    /// GET and POST on both services through the gateway, 32 connections, no retries.
    pub async fn through_gateway(namespace: &Namespace, rate: u32) -> Self {
        let both = [&BOTH[..], &STOCK].concat();
        let both = both.iter().map(|word| word.replace("//users:", "//gateway:").replace("//inventory:", "//gateway:"));
        let both: [String; 12] = both.collect::<Vec<_>>().try_into().expect("twelve");
        Self::of(Tool::start_load(namespace, both, "30m", rate).await).await
    }

    /// A load that has begun.
    pub async fn of(tool: Tool) -> Self {
        let load = Self(tool);
        load.wait_for_progress().await;
        load
    }

    /// Waits until requests are answered.
    async fn wait_for_progress(&self) {
        let sees_a_line = async {
            loop {
                let log = self.0.pods.logs(&self.0.name, &LogParams::default()).await.unwrap_or_default();
                if log.contains(r#""line":"progress""#) {
                    return;
                }
                time::sleep(Duration::from_millis(200)).await;
            }
        };
        within("the load wait_for_progress", sees_a_line).await;
    }

    /// Ends it by SIGTERM: what became of every request.
    pub async fn stop(mut self) -> Summary {
        self.0.pods.delete(&self.0.name, &DeleteParams::default()).await.expect("it is told to end");
        let log = within("the end of the load", &mut self.0.log).await.expect("its log");
        summary(&log)
    }
}

/// The last line of a load's log; the failures are shown.
pub fn summary(log: &[String]) -> Summary {
    let lines: Vec<Value> = log.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for line in lines.iter().filter(|line| line["line"] == "failure") {
        println!("{line}");
    }
    let last = lines.into_iter().next_back().unwrap_or_else(|| panic!("a load without a line: {log:?}"));
    assert_eq!(last["line"], "summary", "the load ended before its summary");
    serde_json::from_value(last).expect("a summary")
}

/// The name of a pod.
pub fn names(pods: &[Pod]) -> Vec<String> {
    pods.iter().map(ResourceExt::name_any).collect()
}

/// Whether a pod is ready.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

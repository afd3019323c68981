//! The pods of the suite: load and probes from inside the cluster, with the project's e2e image.

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

/// The last line of a load.
#[derive(Debug, serde::Deserialize)]
#[expect(dead_code, reason = "the latencies are only printed")]
pub struct Summary {
    pub requests: u64,
    pub rate: f64,
    pub failed: u64,
    /// The number of failures of each kind.
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
    /// Starts a pod, which users and inventory admit if `admitted`. An admitted pod first waits until it can connect,
    /// because network policies need a moment to apply to a new pod.
    pub async fn start(namespace: &Namespace, arguments: &[&str], admitted: bool) -> Self {
        Self::start_with(namespace, arguments, admitted, None).await
    }

    /// Starts a pod that is not admitted, and has a Secret in the folder `/secret`.
    pub async fn start_with_secret(namespace: &Namespace, arguments: &[&str], secret: &str) -> Self {
        Self::start_with(namespace, arguments, false, Some(secret)).await
    }

    async fn start_with(namespace: &Namespace, arguments: &[&str], admitted: bool, secret: Option<&str>) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let name = format!("e2e-{}", STARTED.fetch_add(1, Ordering::Relaxed));
        let label = if admitted { "admitted" } else { "stranger" };
        let container = |name: &str, arguments: &[&str]| {
            json!({
                "name": name, "image": image("e2e"), "imagePullPolicy": "IfNotPresent", "args": arguments,
                "volumeMounts": secret.iter().map(|_| json!({ "name": "secret", "mountPath": "/secret" })).collect::<Vec<_>>(),
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
            })
        };
        let volume = |name: &str| json!({ "name": "secret", "secret": { "secretName": name } });
        let waits = ["users", "inventory"]
            .map(|service| container(&format!("wait-{service}"), &["wait", &format!("tcp://{service}:8080")]));
        let pod = json!({
            "metadata": { "name": name, "labels": { ADMITTED: label } },
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": false,
                "volumes": secret.iter().copied().map(volume).collect::<Vec<_>>(),
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" },
                },
                "initContainers": if admitted { waits.to_vec() } else { Vec::new() },
                "containers": [container("main", arguments)],
            },
        });
        namespace.create::<Pod>(pod).await;
        let pods: Api<Pod> = namespace.api();
        let started = |pod: Option<&Pod>| matches!(phase(pod), Some("Running" | "Succeeded" | "Failed"));
        within("a pod of the suite starts", await_condition(pods.clone(), &name, started))
            .await
            .expect("the watch succeeds");
        let follow = LogParams { follow: true, ..LogParams::default() };
        let stream = pods.log_stream(&name, &follow).await.expect("its log");
        let log = tokio::spawn(stream.lines().filter_map(|line| async { line.ok() }).collect());
        Self { pods, name, log }
    }

    /// Starts a load of these requests.
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

    /// Waits until the pod ends. Returns whether it succeeded, and its log.
    pub async fn end(mut self) -> (bool, Vec<String>) {
        let ended = |pod: Option<&Pod>| matches!(phase(pod), Some("Succeeded" | "Failed"));
        let pod = within("a pod of the suite ends", await_condition(self.pods.clone(), &self.name, ended))
            .await
            .expect("the watch succeeds");
        let log = (&mut self.log).await.expect("its log");
        (phase(pod.as_ref()) == Some("Succeeded"), log)
    }
}

/// Deletes the pod even if the case fails.
impl Drop for Tool {
    fn drop(&mut self) {
        let (pods, name) = (self.pods.clone(), std::mem::take(&mut self.name));
        tokio::spawn(async move { pods.delete(&name, &DeleteParams::default()).await });
    }
}

fn phase(pod: Option<&Pod>) -> Option<&str> {
    pod?.status.as_ref()?.phase.as_deref()
}

/// Runs a probe to completion. Returns whether it succeeded, and its output.
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

/// A load that runs until it is stopped.
pub struct Load(Tool);

impl Load {
    /// Starts GET and POST requests to both services, over 32 connections to each, without retries.
    pub async fn start(namespace: &Namespace, rate: u32) -> Self {
        let both: [&str; 12] = [&BOTH[..], &STOCK].concat().try_into().expect("twelve");
        Self::of(Tool::start_load(namespace, both.map(str::to_owned), "30m", rate).await).await
    }

    /// Starts GET and POST requests to both services through the gateway, over 32 connections, without retries.
    pub async fn through_gateway(namespace: &Namespace, rate: u32) -> Self {
        let both = [&BOTH[..], &STOCK].concat();
        let both = both.iter().map(|word| word.replace("//users:", "//gateway:").replace("//inventory:", "//gateway:"));
        let both: [String; 12] = both.collect::<Vec<_>>().try_into().expect("twelve");
        Self::of(Tool::start_load(namespace, both, "30m", rate).await).await
    }

    /// Wraps a load that was started, and waits until it makes progress.
    pub async fn of(tool: Tool) -> Self {
        let load = Self(tool);
        load.wait_for_progress().await;
        load
    }

    /// Waits until the load reports progress.
    async fn wait_for_progress(&self) {
        let progress = async {
            loop {
                let log = self.0.pods.logs(&self.0.name, &LogParams::default()).await.unwrap_or_default();
                if log.contains(r#""line":"progress""#) {
                    return;
                }
                time::sleep(Duration::from_millis(200)).await;
            }
        };
        within("the load makes progress", progress).await;
    }

    /// Stops the load with SIGTERM, and returns its summary.
    pub async fn stop(mut self) -> Summary {
        self.0.pods.delete(&self.0.name, &DeleteParams::default()).await.expect("the pod is deleted");
        let log = within("the load ends", &mut self.0.log).await.expect("its log");
        summary(&log)
    }
}

/// Parses the last line of the log of a load, and prints its failures.
pub fn summary(log: &[String]) -> Summary {
    let lines: Vec<Value> = log.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for line in lines.iter().filter(|line| line["line"] == "failure") {
        println!("{line}");
    }
    let last = lines.into_iter().next_back().unwrap_or_else(|| panic!("the load printed nothing: {log:?}"));
    assert_eq!(last["line"], "summary", "the load ended before its summary");
    serde_json::from_value(last).expect("a summary")
}

/// The names of the pods.
pub fn names(pods: &[Pod]) -> Vec<String> {
    pods.iter().map(ResourceExt::name_any).collect()
}

/// Whether a pod is ready.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

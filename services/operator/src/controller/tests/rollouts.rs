//! What the status says of a rollout, at every moment.

use http::{Method, StatusCode};
use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Pod},
    jiff::{SignedDuration, Timestamp},
};
use kube::api::ApiResource;
use serde_json::{Value, json};

use super::{ACCOUNT, DEPLOYMENT, Fixture, condition, plain};

const SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn version(tag: &str) -> Value {
    json!({ "image": format!("localhost/orders:{tag}"), "scaling": { "min": 3, "max": 3 } })
}

/// An image that cannot be pulled, long after the pod was scheduled.
fn unpullable() -> Value {
    json!({
        "conditions": [{ "type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" }],
        "containerStatuses": [{
            "name": "main", "image": "localhost/orders:2", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "waiting": { "reason": "ImagePullBackOff", "message": "not found" } },
        }],
    })
}

impl Fixture {
    /// Creates the replica set of the current template, with a pod of this status, as the controllers do.
    fn replica_set(&self, name: &str, ready: i64, pod: &Value) {
        let deployment = self.server.get(DEPLOYMENT).expect("a Deployment");
        let owner =
            |kind: &str, uid: &Value| json!([{ "apiVersion": "apps/v1", "kind": kind, "name": "x", "uid": uid }]);
        let mut template = deployment["spec"]["template"].clone();
        template["metadata"]["labels"]["pod-template-hash"] = name.into();
        let set = json!({
            "metadata": { "name": name, "ownerReferences": owner("Deployment", &deployment["metadata"]["uid"]) },
            "spec": { "selector": {}, "template": template },
            "status": { "replicas": ready, "readyReplicas": ready },
        });
        self.server.put(&format!("{SETS}/{name}"), set);
        let set = self.server.get(&format!("{SETS}/{name}")).expect("a replica set");
        let owners = owner("ReplicaSet", &set["metadata"]["uid"]);
        let pod = json!({ "metadata": { "name": name, "ownerReferences": owners }, "status": pod });
        self.server.put(&format!("{PODS}/{name}"), pod);
    }

    /// Sets the status of the Deployment, of which three pods of an older version are ready.
    fn rolling(&self, updated: i64, observes: bool) {
        self.edit(DEPLOYMENT, |deployment| {
            let generation = deployment["metadata"]["generation"].as_i64().expect("a generation");
            deployment["status"] = json!({
                "replicas": 3 + updated, "updatedReplicas": updated, "readyReplicas": 3, "availableReplicas": 3,
                "observedGeneration": if observes { generation } else { generation - 1 },
            });
        });
    }
}

#[tokio::test]
async fn the_fix_of_a_broken_release_is_never_stalled() {
    let mut fixture = Fixture::new(version("1"));
    fixture.reconcile().await;
    fixture.replica_set("orders-1", 3, &json!({}));
    fixture.deployed(3);
    fixture.reconcile().await;

    fixture.apply(version("2"), 2);
    fixture.reconcile().await;
    fixture.replica_set("orders-2", 0, &unpullable());
    fixture.rolling(1, true);
    let status = fixture.reconcile().await;
    assert_eq!(condition(&status, "Reconciling")["reason"], "ImagePull", "the pod is old, the error new: {status:#}");
    let pod = fixture.server.get(&format!("{PODS}/orders-2")).expect("the pod");
    let pod: Pod = serde_json::from_value(pod).expect("a pod");
    let noticed = Timestamp::now() - SignedDuration::from_secs(20);
    fixture.context.pull_errors.forget(&pod, "main");
    fixture.context.pull_errors.observe(&pod, "main", noticed);
    let status = fixture.reconcile().await;
    assert_eq!(condition(&status, "Stalled")["reason"], "ImagePull", "{status:#}");
    assert_eq!((&status["image"], &status["readyReplicas"]), (&json!("localhost/orders:1"), &json!(3)));
    fixture.context.pull_errors.forget(&pod, "main");
    let status = fixture.reconcile().await;
    assert_eq!(condition(&status, "Stalled")["reason"], "ImagePull", "so it stays under another leader: {status:#}");

    fixture.apply(version("3"), 3);
    let before = fixture.ever("Stalled", "True").len();
    fixture.reconcile().await;
    fixture.rolling(1, false);
    let status = fixture.reconcile().await;
    assert_eq!(condition(&status, "Reconciling")["reason"], "RollingOut", "{status:#}");
    // The pod of the broken release still exists.
    fixture.rolling(0, true);
    fixture.reconcile().await;
    fixture.replica_set("orders-3", 0, &json!({}));
    fixture.rolling(1, true);
    let status = fixture.reconcile().await;
    assert_eq!(condition(&status, "Reconciling")["reason"], "RollingOut", "{status:#}");
    let ready = fixture.ever("Ready", "True").len();
    fixture.deployed(3);
    let status = fixture.reconcile().await;
    assert_eq!(condition(&status, "Ready")["status"], "True", "{status:#}");
    assert_eq!(status["image"], "localhost/orders:3");
    assert_eq!(fixture.ever("Stalled", "True").len(), before, "not for a moment");
    assert_eq!(fixture.ever("Ready", "True").len(), ready + 1, "not before it was rolled out");
}

#[tokio::test]
async fn a_refused_deployment_does_not_hide_what_runs() {
    let mut fixture = Fixture::new(version("1"));
    fixture.settle().await;
    fixture.server.refuse(Method::PUT, "/deployments/", StatusCode::UNPROCESSABLE_ENTITY, "a field is invalid");
    fixture.apply(version("2"), 2);
    let status = fixture.reconcile().await;
    let stalled = condition(&status, "Stalled");
    assert_eq!((&stalled["status"], &stalled["reason"]), (&json!("True"), &json!("Refused")), "{status:#}");
    assert_eq!((&status["replicas"], &status["readyReplicas"]), (&json!(3), &json!(3)));
    assert_eq!(status["image"], "localhost/orders:1", "the image that serves");
    assert_eq!(condition(&status, "Available")["status"], "True");
}

#[tokio::test]
async fn what_cannot_be_read_is_not_denied() {
    let mut fixture = Fixture::new(plain());
    let before = fixture.settle().await;
    for part in ["/deployments/orders", "/replicasets"] {
        // Otherwise nothing else is read.
        fixture.edit(DEPLOYMENT, |deployment| deployment["status"]["availableReplicas"] = 2.into());
        fixture.server.refuse(Method::GET, part, StatusCode::INTERNAL_SERVER_ERROR, "etcd is unavailable");
        let status = fixture.reconcile().await;
        assert_eq!(condition(&status, "Reconciling")["reason"], "Retrying", "{status:#}");
        assert_eq!(condition(&status, "Available")["status"], "True", "{part}");
        for field in ["image", "replicas", "readyReplicas"] {
            assert_eq!(status[field], before[field], "{part}: {field}");
        }
        fixture.server.stop_refusing();
    }
}

/// A version that waits for a database that cannot be created.
fn waiting(tag: &str) -> Value {
    let mut spec = version(tag);
    spec["database"] = json!({});
    spec
}

#[tokio::test]
async fn what_was_rolled_out_last_is_kept_while_nothing_new_may_be() {
    let mut fixture = Fixture::new(version("1"));
    fixture.settle().await;
    let kept = fixture.server.get(DEPLOYMENT).expect("a Deployment")["spec"].clone();
    fixture.apply(waiting("2"), 2);
    let status = fixture.reconcile().await;
    assert_eq!(condition(&status, "Migrated")["reason"], "DatabaseMissing", "{status:#}");
    fixture.reconcile().await;
    drop(fixture.server.take_writes());
    fixture.reconcile().await;
    assert_eq!(fixture.server.take_writes(), []);

    let edits: [fn(&mut Value); 4] = [
        |live| live["spec"]["template"]["spec"]["containers"][0]["image"] = "localhost/theirs:1".into(),
        |live| live["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{ "name": "A", "value": "b" }]),
        |live| live["spec"]["paused"] = true.into(),
        |live| live["spec"]["replicas"] = 0.into(),
    ];
    for edit in edits {
        fixture.edit(DEPLOYMENT, edit);
        fixture.reconcile().await;
        assert_eq!(fixture.server.get(DEPLOYMENT).expect("a Deployment")["spec"], kept);
    }
    fixture.edit(DEPLOYMENT, |live| live["metadata"]["labels"]["theirs"] = "x".into());
    fixture.reconcile().await;
    assert_eq!(fixture.server.get(DEPLOYMENT).expect("a Deployment")["metadata"]["labels"]["theirs"], Value::Null);

    fixture.delete(&ApiResource::erase::<Deployment>(&()), DEPLOYMENT);
    let status = fixture.reconcile().await;
    assert_eq!(fixture.server.get(DEPLOYMENT).expect("it is back")["spec"], kept);
    assert_eq!(condition(&status, "Ready")["reason"], "ServerSecretMissing", "{status:#}");

    fixture.apply(version("3"), 3);
    fixture.reconcile().await;
    let live = fixture.server.get(DEPLOYMENT).expect("a Deployment");
    assert_eq!(live["spec"]["template"]["spec"]["containers"][0]["image"], "localhost/orders:3");
}

#[tokio::test]
async fn a_deployment_is_not_restored_without_the_account_of_its_pods() {
    let mut fixture = Fixture::new(version("1"));
    fixture.settle().await;
    fixture.edit(ACCOUNT, |account| account["metadata"] = json!({ "name": "orders" }));
    fixture.reconcile().await;
    fixture.edit(DEPLOYMENT, |live| live["spec"]["paused"] = true.into());
    fixture.reconcile().await;
    assert_eq!(fixture.server.get(DEPLOYMENT).expect("a Deployment")["spec"]["paused"], Value::Null);
    fixture.delete(&ApiResource::erase::<Deployment>(&()), DEPLOYMENT);
    fixture.reconcile().await;
    assert_eq!(fixture.server.get(DEPLOYMENT), None);
}

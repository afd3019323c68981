//! Children that others write to, and objects of the names of children that belong to someone else.

use std::sync::Arc;

use http::{Method, StatusCode};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::ApiResource;
use serde_json::{Value, json};

use super::{ACCOUNT, AUTOSCALER, DEPLOYMENT, Fixture, OBJECT, SERVICE, children, condition, plain, reconcile};
use api::Microservice;

const POD: &str = "/spec/template/spec";

fn automatic() -> Value {
    json!({ "image": "localhost/orders:1", "scaling": { "min": 2, "max": 9 } })
}

impl Fixture {
    /// Reconciles until three pods are ready.
    pub(super) async fn settle(&mut self) -> Value {
        self.reconcile().await;
        self.deployed(3);
        self.reconcile().await
    }

    /// Changes a stored object, as someone else does.
    pub(super) fn edit(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self.server.get(path).expect("the object");
        change(&mut object);
        self.server.put(path, object);
    }

    /// The statuses that the object ever had in which a condition had this status.
    pub(super) fn ever(&self, kind: &str, status: &str) -> Vec<Value> {
        let statuses = self.server.states(OBJECT).into_iter().map(|object| object["status"].clone());
        statuses.filter(|found| found["conditions"].is_array() && condition(found, kind)["status"] == status).collect()
    }

    /// Deletes a child, and delivers the event.
    pub(super) fn delete(&self, kind: &ApiResource, path: &str) {
        let child = serde_json::from_value(self.server.get(path).expect("a child")).expect("an object");
        self.server.delete(path);
        self.context.children.observe(kind, &child, false);
    }

    /// The children that exist, with their kinds and paths.
    fn children(&self) -> Vec<(ApiResource, String, Value)> {
        let paths = |kind: ApiResource| {
            let group = if kind.group.is_empty() { "api".to_owned() } else { format!("apis/{}", kind.group) };
            let path = format!("/{group}/{}/namespaces/default/{}", kind.version, kind.plural);
            ["orders", "orders-headless"].map(|name| (kind.clone(), format!("{path}/{name}")))
        };
        let get = |(kind, path): (ApiResource, String)| Some((kind, path.clone(), self.server.get(&path)?));
        children::kinds().into_iter().flat_map(paths).filter_map(get).collect()
    }
}

/// The API server refuses tokens that are bound to an account that no longer exists.
#[tokio::test]
async fn pods_with_a_token_follow_their_account() {
    let mut spec = plain();
    spec["automountToken"] = true.into();
    let mut fixture = Fixture::new(spec);
    fixture.settle().await;
    let annotation = |fixture: &Fixture| {
        let template = fixture.server.get(DEPLOYMENT).expect("a Deployment")["spec"]["template"].clone();
        let uid = fixture.server.get(ACCOUNT).expect("an account")["metadata"]["uid"].clone();
        (template["metadata"]["annotations"]["hedgerow.dev/service-account-uid"].clone(), uid)
    };
    let (before, uid) = annotation(&fixture);
    assert!(before.is_string() && before == uid, "{before}");
    fixture.delete(&ApiResource::erase::<ServiceAccount>(&()), ACCOUNT);
    fixture.reconcile().await;
    let (after, uid) = annotation(&fixture);
    assert!(after == uid && after != before, "{after}");

    let mut fixture = Fixture::new(plain());
    fixture.settle().await;
    assert!(annotation(&fixture).0.is_null(), "pods without a token stay");
}

/// As during `helm upgrade`: the object is changed before the operator is replaced.
#[tokio::test]
async fn only_the_operator_an_object_is_meant_for_reports_it() {
    let mut spec = plain();
    spec["configuration"] = "theirs".into();
    let mut fixture = Fixture::new(spec.clone());
    let status = fixture.settle().await;
    assert_eq!(status["observedGeneration"], 0, "{status:#}");
    assert_eq!(condition(&status, "Ready")["status"], "True", "it is reconciled all the same");
    spec["configuration"] = Value::Null;
    fixture.apply(spec, 2);
    assert_eq!(fixture.reconcile().await["observedGeneration"], 2);
}

/// The object is deleted and created again while its reconcile is about to write the status.
#[tokio::test]
async fn a_status_is_written_only_onto_its_object() {
    let mut fixture = Fixture::new(plain());
    fixture.settle().await;
    let deleted: Microservice = serde_json::from_value(fixture.server.get(OBJECT).expect("it")).expect("an object");
    fixture.edit(OBJECT, |object| {
        object["metadata"]["uid"] = "another-uid".into();
        object["status"] = Value::Null;
    });
    fixture.deployed(1);
    assert_eq!(reconcile(Arc::new(deleted), fixture.context.clone()).await.err().map(|error| error.to_string()), None);
    assert_eq!(fixture.server.get(OBJECT).expect("the new object")["status"], Value::Null);
}

#[tokio::test]
async fn what_others_add_to_a_child_goes() {
    let mut fixture = Fixture::new(plain());
    fixture.settle().await;
    let good = fixture.server.get(DEPLOYMENT).expect("a Deployment");
    let edits: [fn(&mut Value); 7] = [
        |object| object["metadata"]["labels"]["theirs"] = "1".into(),
        |object| object["spec"]["paused"] = true.into(),
        |object| object["spec"]["template"]["metadata"]["annotations"]["theirs"] = "1".into(),
        |object| object.pointer_mut(POD).expect("a pod")["containers"][0]["command"] = json!(["sleep"]),
        |object| object.pointer_mut(POD).expect("a pod")["nodeSelector"] = json!({ "disk": "ssd" }),
        |object| {
            let variables = &mut object.pointer_mut(POD).expect("a pod")["containers"][0]["env"];
            variables.as_array_mut().expect("variables").push(json!({ "name": "THEIRS", "value": "1" }));
        },
        |object| object["metadata"]["ownerReferences"] = json!([]),
    ];
    for edit in edits {
        fixture.edit(DEPLOYMENT, edit);
        fixture.reconcile().await;
        let now = fixture.server.get(DEPLOYMENT).expect("a Deployment");
        assert_eq!(now["spec"], good["spec"]);
        assert_eq!(now["metadata"]["labels"], good["metadata"]["labels"]);
        assert_eq!(now["metadata"]["ownerReferences"], good["metadata"]["ownerReferences"]);
    }
    assert_eq!(fixture.ever("Stalled", "True"), [Value::Null; 0]);
}

#[tokio::test]
async fn a_variable_of_someone_else_does_not_block_the_rollout() {
    let spec = json!({ "image": "localhost/orders:1", "env": [{
        "name": "TOKEN", "valueFrom": { "secretKeyRef": { "name": "orders", "key": "token" } },
    }] });
    let mut fixture = Fixture::new(spec);
    fixture.settle().await;
    // `kubectl set env` does this.
    let set = |variable: &mut Value| *variable = json!({ "name": "TOKEN", "value": "x" });
    fixture.edit(DEPLOYMENT, |object| {
        let variables = object.pointer_mut(&format!("{POD}/containers/0/env")).expect("variables");
        set(variables.as_array_mut().expect("variables").iter_mut().find(|one| one["name"] == "TOKEN").expect("it"));
    });
    fixture.reconcile().await;
    let now = fixture.server.get(DEPLOYMENT).expect("a Deployment");
    let variables = now.pointer(&format!("{POD}/containers/0/env")).expect("variables").as_array().expect("variables");
    let token = variables.iter().find(|variable| variable["name"] == "TOKEN").expect("it");
    assert_eq!((&token["value"], token["valueFrom"].is_object()), (&Value::Null, true), "never both");
}

#[tokio::test]
async fn a_restart_by_kubectl_is_neither_undone_nor_repeated() {
    let mut fixture = Fixture::new(plain());
    fixture.settle().await;
    let restarted = |fixture: &Fixture| {
        let object = fixture.server.get(DEPLOYMENT).expect("a Deployment");
        object["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"].clone()
    };
    fixture.edit(DEPLOYMENT, |object| {
        object["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] = "now".into();
    });
    drop(fixture.server.take_writes());
    fixture.reconcile().await;
    let writes = fixture.server.take_writes();
    assert!(writes.iter().all(|(_, path)| !path.contains("deployments")), "{writes:?}");
    assert_eq!(restarted(&fixture), "now");
    // A later rollout does not start the pods again for it.
    fixture.apply(json!({ "image": "localhost/orders:2", "scaling": { "min": 3, "max": 3 } }), 2);
    fixture.reconcile().await;
    assert_eq!(restarted(&fixture), "now");
}

#[tokio::test]
async fn what_other_controllers_write_stays() {
    let mut fixture = Fixture::new(plain());
    fixture.settle().await;
    fixture.edit(ACCOUNT, |object| {
        object["secrets"] = json!([{ "name": "orders-dockercfg" }]);
        object["metadata"]["labels"]["theirs"] = "1".into();
    });
    fixture.edit(SERVICE, |object| {
        object["metadata"]["finalizers"] = json!(["service.kubernetes.io/load-balancer-cleanup"]);
        object["metadata"]["annotations"] = json!({ "cloud.example/group": "7", "hedgerow.dev/route": "{}" });
    });
    fixture.reconcile().await;
    let account = fixture.server.get(ACCOUNT).expect("an account");
    assert_eq!(account["secrets"], json!([{ "name": "orders-dockercfg" }]));
    assert_eq!(account["metadata"]["labels"]["theirs"], Value::Null);
    let service = fixture.server.get(SERVICE).expect("a Service");
    assert_eq!(service["metadata"]["finalizers"], json!(["service.kubernetes.io/load-balancer-cleanup"]));
    assert_eq!(service["metadata"]["annotations"], json!({ "cloud.example/group": "7" }), "no route of its own");
}

#[tokio::test]
async fn an_autoscaled_deployment_does_not_stay_at_zero() {
    let mut fixture = Fixture::new(automatic());
    fixture.settle().await;
    for (set, expected) in [(0, 2), (1, 2), (7, 7), (12, 9)] {
        fixture.edit(DEPLOYMENT, |object| object["spec"]["replicas"] = set.into());
        fixture.reconcile().await;
        assert_eq!(fixture.server.get(DEPLOYMENT).expect("a Deployment")["spec"]["replicas"], expected);
    }
}

#[tokio::test]
async fn a_rollout_keeps_what_the_autoscaler_chose_meanwhile() {
    let mut fixture = Fixture::new(automatic());
    fixture.settle().await;
    fixture.apply(json!({ "image": "localhost/orders:2", "scaling": { "min": 2, "max": 9 } }), 2);
    fixture.edit(DEPLOYMENT, |object| object["spec"]["replicas"] = 7.into());
    // The watch has not delivered this change yet when the Deployment is written.
    let object: Microservice =
        serde_json::from_value(fixture.server.get(OBJECT).expect("the object")).expect("a Microservice");
    reconcile(Arc::new(object), fixture.context.clone()).await.expect("the reconcile succeeds");
    let deployment = fixture.server.get(DEPLOYMENT).expect("a Deployment");
    assert_eq!(deployment["spec"]["replicas"], 7);
    assert_eq!(deployment["spec"]["template"]["spec"]["containers"][0]["image"], "localhost/orders:2");
}

#[tokio::test]
async fn children_of_a_deleted_object_of_the_name_are_waited_for() {
    let mut fixture = Fixture::new(automatic());
    fixture.settle().await;
    let children = fixture.children();
    assert_eq!(children.len(), 7);
    fixture.edit(OBJECT, |object| {
        object["metadata"]["uid"] = "a-new-uid".into();
        object["metadata"]["generation"] = 1.into();
        object["status"] = Value::Null;
    });
    let status = fixture.reconcile().await;
    let reconciling = condition(&status, "Reconciling");
    assert_eq!((&reconciling["status"], &reconciling["reason"]), (&json!("True"), &json!("WaitingForDeletion")));
    assert_eq!((&status["replicas"], &condition(&status, "Available")["status"]), (&json!(0), &json!("False")));
    assert_eq!(fixture.children(), children, "nothing is taken from the garbage collector");

    for (_, path, _) in &children {
        fixture.edit(path, |child| child["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into());
    }
    fixture.reconcile().await;
    for (kind, path, _) in &children {
        fixture.delete(kind, path);
    }
    fixture.reconcile().await;
    fixture.deployed(2);
    let status = fixture.reconcile().await;
    assert_eq!(condition(&status, "Ready")["status"], "True", "{status:#}");
    assert_eq!(fixture.ever("Stalled", "True"), [Value::Null; 0]);
}

#[tokio::test]
async fn orphans_of_an_earlier_object_are_taken_over() {
    let mut fixture = Fixture::new(automatic());
    fixture.settle().await;
    let before = fixture.children();
    for (_, path, _) in &before {
        fixture.edit(path, |child| child["metadata"]["ownerReferences"] = json!([]));
    }
    fixture.edit(OBJECT, |object| object["metadata"]["uid"] = "a-new-uid".into());
    // The new object has no autoscaler.
    fixture.apply(json!({ "image": "localhost/orders:1", "scaling": { "min": 2, "max": 2 } }), 2);
    fixture.reconcile().await;
    fixture.deployed(2);
    let status = fixture.reconcile().await;
    assert_eq!(condition(&status, "Ready")["status"], "True", "{status:#}");
    assert_eq!(fixture.ever("Stalled", "True"), [Value::Null; 0]);
    assert_eq!(fixture.server.get(AUTOSCALER), None, "it is no longer specified");
    let after = fixture.children();
    assert_eq!(after.len(), 6);
    for (_, path, child) in after {
        let (.., before) = before.iter().find(|(_, before, _)| *before == path).expect("it was there");
        assert_eq!(child["metadata"]["uid"], before["metadata"]["uid"], "{path} was not created again");
        assert_eq!(child["metadata"]["ownerReferences"][0]["uid"], "a-new-uid", "{path}");
    }
}

#[tokio::test]
async fn no_pod_starts_under_a_foreign_account() {
    let mut fixture =
        Fixture::new(json!({ "image": "localhost/orders:1", "database": {}, "scaling": { "min": 3, "max": 3 } }));
    fixture.server.put(ACCOUNT, json!({ "metadata": { "name": "orders", "annotations": { "role": "admin" } } }));
    let status = fixture.reconcile().await;
    let stalled = condition(&status, "Stalled");
    assert_eq!((&stalled["status"], &stalled["reason"]), (&json!("True"), &json!("Conflict")), "{status:#}");
    assert!(stalled["message"].as_str().expect("a text").contains("ServiceAccount orders"), "{stalled}");
    assert_eq!(condition(&status, "Migrated")["reason"], "NotRolledOut", "a migration would run under it too");
    assert!(fixture.server.get(SERVICE).is_some(), "what needs no account is applied");

    fixture.apply(plain(), 2);
    fixture.reconcile().await;
    assert!(fixture.server.get(DEPLOYMENT).is_none(), "although no database is awaited");
}

#[tokio::test]
async fn an_account_that_is_lost_later_stops_only_rollouts() {
    let mut fixture = Fixture::new(plain());
    fixture.settle().await;
    fixture.delete(&children::kinds()[0], ACCOUNT);
    fixture.server.refuse(Method::POST, "/serviceaccounts", StatusCode::FORBIDDEN, "not allowed");
    fixture.apply(json!({ "image": "localhost/orders:2", "scaling": { "min": 4, "max": 4 } }), 2);
    fixture.reconcile().await;
    let spec = fixture.server.get(DEPLOYMENT).expect("a Deployment")["spec"].clone();
    assert_eq!(spec["template"]["spec"]["containers"][0]["image"], "localhost/orders:1");
    assert_eq!(spec["replicas"], 4, "scaling still works");
}

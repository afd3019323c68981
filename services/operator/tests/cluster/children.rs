//! Children, and edits of them by others.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use api::Microservice;
use k8s_openapi::{
    api::{
        apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler, core::v1::Service,
        networking::v1::NetworkPolicy, policy::v1::PodDisruptionBudget,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
    runtime::wait::await_condition,
};
use serde_json::{Value, json};
use test_support::cluster::{SOON, eventually, image, is, within};

use crate::installation::Installation;

pub async fn a_deleted_or_edited_child_is_restored(on: Arc<Installation>) {
    on.apply("edited", json!({ "image": image("users"), "database": {}, "scaling": { "min": 2, "max": 2 } })).await;
    on.ready("edited").await;
    let services: Api<Service> = on.api();
    let good = services.get("edited").await.expect("a Service").spec.expect("it").selector;
    let patch = json!({ "spec": { "selector": { "app.kubernetes.io/name": "nobody" } } });
    services.patch("edited", &PatchParams::default(), &Patch::Merge(patch)).await.expect("patching succeeds");
    let is_good = |service: Option<&Service>| {
        service.and_then(|service| service.spec.as_ref()).is_some_and(|spec| spec.selector == good)
    };
    within("the selector is restored", await_condition(services.clone(), "edited", is_good)).await.expect("a watch");

    let policies: Api<NetworkPolicy> = on.api();
    let mut times = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        policies.delete("edited", &DeleteParams::default()).await.expect("deleting succeeds");
        let exists = |policy: Option<&NetworkPolicy>| policy.is_some();
        within("the policy is restored", await_condition(policies.clone(), "edited", exists)).await.expect("a watch");
        times.push(begun.elapsed());
    }
    times.sort();
    println!("deleted children were restored after {times:?}");

    let deployments: Api<Deployment> = on.api();
    let patch = json!({ "spec": { "replicas": 5 } });
    deployments.patch("edited", &PatchParams::default(), &Patch::Merge(patch)).await.expect("patching succeeds");
    eventually("the replica count is restored", SOON, async || {
        deployments.get("edited").await.expect("it").spec.expect("it").replicas == Some(2)
    })
    .await;
}

pub async fn what_others_add_to_a_deployment_goes(on: Arc<Installation>) {
    on.apply("owned", json!({ "image": image("users"), "database": {}, "scaling": { "min": 2, "max": 4 } })).await;
    on.ready("owned").await;
    let recorder = on.record("owned").await;
    let deployments: Api<Deployment> = on.api();
    let good = deployments.get("owned").await.expect("a Deployment").spec.expect("it");
    // As `kubectl scale`, `rollout pause`, `set env` and `edit` do.
    let container = |fields: Value| {
        let mut container = json!({ "name": "main" });
        container.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        json!({ "spec": { "template": { "spec": { "containers": [container] } } } })
    };
    let url = json!([{ "name": "DATABASE_URL", "value": "postgres://elsewhere", "valueFrom": null }]);
    let edits = [
        json!({ "spec": { "replicas": 0 } }),
        json!({ "spec": { "paused": true } }),
        container(json!({ "env": url })),
        container(json!({ "command": ["/bin/false"] })),
        json!({ "metadata": { "labels": { "theirs": "1" } } }),
    ];
    for edit in edits {
        let parameters = PatchParams { field_manager: Some("kubectl-edit".to_owned()), ..PatchParams::default() };
        deployments.patch("owned", &parameters, &Patch::Strategic(&edit)).await.expect("patching succeeds");
        // Sooner than the next reconcile without a cause.
        eventually(&format!("{edit} goes"), Duration::from_secs(5), async || {
            let now = deployments.get("owned").await.expect("a Deployment");
            let spec = now.spec.expect("it");
            let is_labeled = now.metadata.labels.expect("labels").contains_key("theirs");
            spec.template == good.template && spec.paused != Some(true) && spec.replicas >= Some(2) && !is_labeled
        })
        .await;
        on.ready("owned").await;
    }
    recorder.assert_never("Stalled", 0);
    recorder.assert_truthful();
}

pub async fn a_restart_by_kubectl_replaces_the_pods(on: Arc<Installation>) {
    on.apply("restarted", json!({ "image": image("users"), "database": {}, "scaling": { "min": 1, "max": 1 } })).await;
    on.ready("restarted").await;
    let names = async || on.pods("restarted").await.iter().map(ResourceExt::name_any).collect::<HashSet<_>>();
    let (before, deployments) = (names().await, on.api::<Deployment>());
    // As `kubectl rollout restart` does.
    let annotations = json!({ "kubectl.kubernetes.io/restartedAt": "now" });
    let patch = Patch::Merge(json!({ "spec": { "template": { "metadata": { "annotations": annotations } } } }));
    let parameters = PatchParams { field_manager: Some("kubectl-rollout".to_owned()), ..PatchParams::default() };
    deployments.patch("restarted", &parameters, &patch).await.expect("patching succeeds");
    eventually("new pods", SOON, async || {
        let now = names().await;
        !now.is_empty() && now.is_disjoint(&before)
    })
    .await;
    on.ready("restarted").await;
    let template = deployments.get("restarted").await.expect("a Deployment").spec.expect("it").template;
    let annotations = template.metadata.expect("metadata").annotations.expect("annotations");
    assert!(
        annotations.contains_key("kubectl.kubernetes.io/restartedAt"),
        "the restart is not undone: {annotations:?}"
    );
}

pub async fn an_object_created_again_is_never_stalled(on: Arc<Installation>) {
    let spec = json!({ "image": image("users"), "database": {}, "scaling": { "min": 1, "max": 1 } });
    on.apply("again", spec.clone()).await;
    on.ready("again").await;
    let (objects, deployments) = (on.api::<Microservice>(), on.api::<Deployment>());
    let recorder = on.record("again").await;
    // Its children are deleted after it.
    objects.delete("again", &DeleteParams::background()).await.expect("deleting succeeds");
    eventually("it is gone", SOON, async || objects.get_opt("again").await.expect("a response").is_none()).await;
    on.apply("again", spec.clone()).await;
    on.ready("again").await;

    let before = deployments.get("again").await.expect("a Deployment").metadata.uid;
    objects.delete("again", &DeleteParams::orphan()).await.expect("deleting succeeds");
    eventually("it is gone", SOON, async || objects.get_opt("again").await.expect("a response").is_none()).await;
    on.apply("again", spec).await;
    on.ready("again").await;
    let now = deployments.get("again").await.expect("a Deployment");
    assert_eq!(now.metadata.uid, before, "the orphan is taken over");
    let owner = on.get("again").await.metadata.uid;
    assert_eq!(now.metadata.owner_references.and_then(|owners| Some(owners.first()?.uid.clone())), owner);
    recorder.assert_never("Stalled", 0);
    recorder.assert_truthful();
}

pub async fn an_emptied_status_is_written_again(on: Arc<Installation>) {
    on.apply("emptied", json!({ "image": image("users"), "database": {}, "scaling": { "min": 1, "max": 1 } })).await;
    on.ready("emptied").await;
    let empty = json!({ "status": { "observedGeneration": -1, "conditions": [], "replicas": 7, "image": "theirs" } });
    let objects: Api<Microservice> = on.api();
    objects.patch_status("emptied", &PatchParams::default(), &Patch::Merge(empty)).await.expect("patching succeeds");
    // Sooner than the next reconcile without a cause.
    eventually("the status is back", Duration::from_secs(3), async || {
        let object = on.get("emptied").await;
        let replicas = object.status.as_ref().map(|status| status.replicas);
        is(&object, "Ready", "True", "Ready") && replicas == Some(1)
    })
    .await;
}

pub async fn children_no_longer_specified_are_deleted(on: Arc<Installation>) {
    let spec = |min, max| json!({ "image": image("users"), "database": {}, "scaling": { "min": min, "max": max } });
    on.apply("pruned", spec(2, 4)).await;
    on.ready("pruned").await;
    let (autoscalers, budgets) = (on.api::<HorizontalPodAutoscaler>(), on.api::<PodDisruptionBudget>());
    autoscalers.get("pruned").await.expect("an autoscaler");
    budgets.get("pruned").await.expect("a budget");
    on.apply("pruned", spec(1, 4)).await;
    on.ready("pruned").await;
    budgets.get("pruned").await.expect("four pods may run");
    on.apply("pruned", spec(1, 1)).await;
    on.ready("pruned").await;
    eventually("both are gone", SOON, async || {
        autoscalers.get_opt("pruned").await.expect("a response").is_none()
            && budgets.get_opt("pruned").await.expect("a response").is_none()
    })
    .await;
}

pub async fn the_older_object_keeps_the_path(on: Arc<Installation>) {
    let spec = json!({
        "image": image("users"), "database": {}, "scaling": { "min": 1, "max": 1 }, "route": { "paths": ["/both"] },
    });
    on.apply("older", spec.clone()).await;
    on.ready("older").await;
    on.apply("younger", spec).await;
    let message = on.unready("younger", "RouteConflict").await;
    assert!(message.contains("/both belongs to older"), "{message}");
    assert!(is(&on.get("older").await, "RouteAccepted", "True", "Accepted"));
    on.delete("older").await;
    on.ready("younger").await;
    let service = on.api::<Service>().get("younger").await.expect("a Service");
    let route = service.metadata.annotations.expect("annotations").remove("hedgerow.dev/route");
    assert_eq!(route.as_deref(), Some(r#"{"grpc":false,"paths":["/both"]}"#));
}

pub async fn a_kind_that_is_installed_later_is_used(on: Arc<Installation>) {
    let crds: Api<CustomResourceDefinition> = Api::all(on.client.clone());
    if crds.get_opt("podmonitors.monitoring.coreos.com").await.expect("a response").is_some() {
        println!("skipped: the cluster has PodMonitors already");
        return;
    }
    on.apply("monitored", json!({ "image": image("users"), "database": {}, "scaling": { "min": 1, "max": 1 } })).await;
    on.ready("monitored").await;
    let crd = json!({
        "metadata": { "name": "podmonitors.monitoring.coreos.com" },
        "spec": {
            "group": "monitoring.coreos.com", "scope": "Namespaced",
            "names": { "kind": "PodMonitor", "plural": "podmonitors", "singular": "podmonitor" },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } },
            }],
        },
    });
    let crd = serde_json::from_value(crd).expect("a CRD");
    crds.create(&PostParams::default(), &crd).await.expect("applying succeeds");
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("monitoring.coreos.com", "v1", "PodMonitor"));
    let monitors: Api<DynamicObject> = Api::namespaced_with(on.client.clone(), &on.name, &kind);
    eventually("a PodMonitor", Duration::from_mins(1), async || monitors.get("monitored").await.is_ok()).await;
    crds.delete("podmonitors.monitoring.coreos.com", &DeleteParams::default()).await.expect("deleting succeeds");
    // The operator keeps working after the kind is removed.
    on.apply("monitored", json!({ "image": image("users"), "database": {}, "scaling": { "min": 2, "max": 2 } })).await;
    on.ready("monitored").await;
}

//! Children, and edits of them by others.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::{
        autoscaling::v2::HorizontalPodAutoscaler, core::v1::Service, networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
    runtime::wait::await_condition,
};
use serde_json::json;
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

    let deployments: Api<k8s_openapi::api::apps::v1::Deployment> = on.api();
    let patch = json!({ "spec": { "replicas": 5 } });
    deployments.patch("edited", &PatchParams::default(), &Patch::Merge(patch)).await.expect("patching succeeds");
    eventually("the replica count is restored", SOON, async || {
        deployments.get("edited").await.expect("it").spec.expect("it").replicas == Some(2)
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

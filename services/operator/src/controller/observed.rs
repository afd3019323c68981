//! Deployments and autoscalers as the watches delivered them, so that reconciling an object that has settled reads
//! nothing.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        autoscaling::v2::HorizontalPodAutoscaler,
        core::v1::{Container, PodSpec},
    },
    apimachinery::pkg::apis::meta::v1::FieldsV1,
};
use kube::{ResourceExt, api::DynamicObject};
use serde_json::json;

use super::{conditions::ConditionResult, rollout};

/// The latest observations, each with its resource version.
#[derive(Default)]
pub(crate) struct Observed(Mutex<State>);

#[derive(Default)]
struct State {
    /// Those whose rollout has finished. While one is in progress, a reconcile reads pods anyway.
    deployments: HashMap<String, (u64, Deployment)>,
    scaling: HashMap<String, (u64, ConditionResult)>,
}

impl Observed {
    /// Records an object of a watch.
    pub(crate) fn observe(&self, kind: &str, object: &DynamicObject) {
        let name = object.name_any();
        self.forget(kind, &name);
        let Some(version) = object.resource_version().and_then(|version| version.parse().ok()) else { return };
        match kind {
            "Deployment" => {
                if let Ok(deployment) = object.clone().try_parse().map(only_used)
                    && is_settled(&deployment)
                {
                    self.state().deployments.insert(name, (version, deployment));
                }
            }
            "HorizontalPodAutoscaler" => {
                if let Ok(autoscaler) = object.clone().try_parse::<HorizontalPodAutoscaler>() {
                    self.state().scaling.insert(name, (version, rollout::scaling(Some(&autoscaler))));
                }
            }
            _ => {}
        }
    }

    /// Forgets a deleted object.
    pub(crate) fn forget(&self, kind: &str, name: &str) {
        match kind {
            "Deployment" => drop(self.state().deployments.remove(name)),
            "HorizontalPodAutoscaler" => drop(self.state().scaling.remove(name)),
            _ => {}
        }
    }

    /// Forgets all objects of a kind except these, after the watch was restarted.
    pub(crate) fn retain(&self, kind: &str, names: &HashSet<String>) {
        match kind {
            "Deployment" => self.state().deployments.retain(|name, _| names.contains(name)),
            "HorizontalPodAutoscaler" => self.state().scaling.retain(|name, _| names.contains(name)),
            _ => {}
        }
    }

    /// A Deployment whose rollout has finished, unless it is older than the version that is known from a write. Of its
    /// pod template it has only the annotations, the labels and the images.
    pub(crate) fn deployment(&self, name: &str, known: Option<u64>) -> Option<Deployment> {
        current(self.state().deployments.get(name), known)
    }

    /// The state of an autoscaler, unless it is older than the version that is known from a write.
    pub(crate) fn scaling(&self, name: &str, known: Option<u64>) -> Option<ConditionResult> {
        current(self.state().scaling.get(name), known)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn current<T: Clone>(observed: Option<&(u64, T)>, known: Option<u64>) -> Option<T> {
    observed.filter(|(version, _)| known.is_none_or(|known| known <= *version)).map(|(_, value)| value.clone())
}

/// Whether all pods of a Deployment are of its current template and available.
fn is_settled(deployment: &Deployment) -> bool {
    let (Some(spec), Some(status)) = (&deployment.spec, &deployment.status) else { return false };
    let counts = [status.replicas, status.updated_replicas, status.available_replicas];
    deployment.metadata.deletion_timestamp.is_none()
        && status.observed_generation >= deployment.metadata.generation
        && counts.iter().all(|count| *count == spec.replicas)
}

/// Drops what no reconcile looks at once a rollout has finished, because there may be thousands of Deployments.
fn only_used(mut deployment: Deployment) -> Deployment {
    for entry in deployment.metadata.managed_fields.iter_mut().flatten() {
        // Who set the replica count matters.
        let set = entry.fields_v1.as_ref().is_some_and(|fields| fields.0.pointer("/f:spec/f:replicas").is_some());
        entry.fields_v1 = set.then(|| FieldsV1(json!({ "f:spec": { "f:replicas": {} } })));
    }
    if let Some(spec) = &mut deployment.spec
        && let Some(pod) = &mut spec.template.spec
    {
        let image =
            |container: Container| Container { name: container.name, image: container.image, ..Container::default() };
        let containers = std::mem::take(&mut pod.containers).into_iter().map(image).collect();
        *pod = PodSpec { containers, ..PodSpec::default() };
    }
    deployment
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn deployment(version: u64, ready: i32) -> DynamicObject {
        let fields = json!({ "f:spec": { "f:replicas": {}, "f:template": {} } });
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {
                "name": "orders", "generation": 1, "resourceVersion": version.to_string(),
                "managedFields": [{ "manager": "hedgerow-operator", "fieldsV1": fields }],
            },
            "spec": { "replicas": 2, "selector": {}, "template": {
                "metadata": { "annotations": { "a": "b" } },
                "spec": { "containers": [{ "name": "main", "image": "orders:1", "env": [{ "name": "A" }] }] },
            } },
            "status": {
                "observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": ready,
            },
        });
        serde_json::from_value(object).expect("an object")
    }

    #[test]
    fn deployment_counts_unless_a_later_write_is_known() {
        let observed = Observed::default();
        assert!(observed.deployment("orders", None).is_none());
        observed.observe("Deployment", &deployment(5, 2));
        for known in [None, Some(4), Some(5)] {
            assert!(observed.deployment("orders", known).is_some(), "{known:?}");
        }
        assert!(observed.deployment("orders", Some(6)).is_none(), "the watch has not delivered the write yet");
        observed.forget("Deployment", "orders");
        assert!(observed.deployment("orders", None).is_none());
    }

    #[test]
    fn deployment_is_kept_only_while_all_its_pods_are_available() {
        let observed = Observed::default();
        observed.observe("Deployment", &deployment(5, 2));
        observed.observe("Deployment", &deployment(6, 1));
        assert!(observed.deployment("orders", None).is_none());
    }

    #[test]
    fn only_what_a_reconcile_looks_at_is_kept() {
        let observed = Observed::default();
        observed.observe("Deployment", &deployment(5, 2));
        let kept: Value = serde_json::to_value(observed.deployment("orders", None)).expect("JSON");
        assert_eq!(kept["spec"]["template"]["metadata"]["annotations"]["a"], "b");
        assert_eq!(
            kept["spec"]["template"]["spec"],
            json!({ "containers": [{ "name": "main", "image": "orders:1" }] })
        );
        let fields = &kept["metadata"]["managedFields"][0]["fieldsV1"];
        assert_eq!(*fields, json!({ "f:spec": { "f:replicas": {} } }));
    }
}

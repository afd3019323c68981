//! Digests of children, to tell which of their changes concern a reconcile.
//!
//! Controllers write the statuses of objects all the time: an autoscaler every 15 s, a disruption budget whenever a pod
//! starts or stops. A reconcile looks at little of that.

use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::{apps::v1::DeploymentStatus, autoscaling::v2::HorizontalPodAutoscaler};
use kube::api::{ApiResource, DynamicObject};
use serde_json::Value;

use super::rollout;

/// Hashes everything in a child of this kind that a reconcile looks at.
pub(crate) fn digest(kind: &ApiResource, object: &DynamicObject) -> u64 {
    let mut hasher = DefaultHasher::new();
    let metadata = &object.metadata;
    (&metadata.uid, metadata.generation, metadata.deletion_timestamp.is_some()).hash(&mut hasher);
    (&metadata.labels, &metadata.annotations, &metadata.finalizers).hash(&mut hasher);
    for owner in metadata.owner_references.iter().flatten() {
        (&owner.kind, &owner.name, &owner.uid, owner.controller, owner.block_owner_deletion).hash(&mut hasher);
    }
    for (key, value) in object.data.as_object().into_iter().flatten().filter(|(key, _)| *key != "status") {
        (key, value.to_string()).hash(&mut hasher);
    }
    let status = object.data.get("status").unwrap_or(&Value::Null);
    match kind.kind.as_str() {
        "Deployment" => hash_deployment(status, &mut hasher),
        "HorizontalPodAutoscaler" => {
            let autoscaler = HorizontalPodAutoscaler {
                status: serde_json::from_value(status.clone()).unwrap_or_default(),
                ..HorizontalPodAutoscaler::default()
            };
            format!("{:?}", rollout::scaling(Some(&autoscaler))).hash(&mut hasher);
        }
        "Job" => status.to_string().hash(&mut hasher),
        _ => {}
    }
    hasher.finish()
}

/// Leaves out when the conditions were last confirmed.
fn hash_deployment(status: &Value, hasher: &mut DefaultHasher) {
    let mut status: DeploymentStatus = serde_json::from_value(status.clone()).unwrap_or_default();
    for condition in status.conditions.iter_mut().flatten() {
        (condition.last_update_time, condition.last_transition_time) = (None, None);
    }
    format!("{status:?}").hash(hasher);
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::{
        apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler, policy::v1::PodDisruptionBudget,
    };
    use kube::Resource;
    use serde_json::json;

    fn differ<K: Resource<DynamicType = ()>>(before: &Value, after: &Value) -> bool {
        let kind = ApiResource::erase::<K>(&());
        let of = |fields: &Value| {
            let mut object = json!({
                "apiVersion": kind.api_version, "kind": kind.kind,
                "metadata": { "name": "orders", "resourceVersion": fields.to_string() },
            });
            object.as_object_mut().expect("an object").extend(fields.as_object().expect("fields").clone());
            digest(&kind, &serde_json::from_value(object).expect("an object"))
        };
        of(before) != of(after)
    }

    #[test]
    fn measurements_of_an_autoscaler_are_ignored() {
        let status = |utilization: i32, active: &str| {
            json!({ "status": {
                "currentMetrics": [{ "type": "Resource", "resource": { "name": "cpu", "current": {
                    "averageUtilization": utilization,
                } } }],
                "conditions": [
                    { "type": "AbleToScale", "status": "True", "message": format!("{utilization} is close enough") },
                    { "type": "ScalingActive", "status": active, "message": "the metrics" },
                ],
                "desiredReplicas": 2,
            } })
        };
        assert!(!differ::<HorizontalPodAutoscaler>(&status(10, "True"), &status(20, "True")));
        assert!(differ::<HorizontalPodAutoscaler>(&status(10, "True"), &status(10, "False")), "it stopped working");
        assert!(differ::<HorizontalPodAutoscaler>(&status(10, "True"), &json!({ "spec": { "maxReplicas": 3 } })));
    }

    #[test]
    fn a_change_of_the_pods_of_a_deployment_counts() {
        let status = |ready: i32, time: &str| {
            let condition = json!({ "type": "Progressing", "status": "True", "lastUpdateTime": time });
            json!({ "status": { "readyReplicas": ready, "conditions": [condition] } })
        };
        let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:10Z");
        assert!(differ::<Deployment>(&status(1, early), &status(2, early)));
        assert!(!differ::<Deployment>(&status(1, early), &status(1, late)));
        let budget = |healthy: i32| json!({ "status": { "currentHealthy": healthy } });
        assert!(!differ::<PodDisruptionBudget>(&budget(1), &budget(2)));
    }

    #[test]
    fn edits_of_a_child_count() {
        let before = json!({ "spec": { "selector": { "app": "orders" } } });
        assert!(!differ::<Deployment>(&before, &before), "the resource version does not count");
        assert!(differ::<Deployment>(&before, &json!({ "spec": { "selector": { "app": "theirs" } } })));
        for metadata in [
            json!({ "labels": { "a": "b" } }),
            json!({ "annotations": { "a": "b" } }),
            json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" }),
            json!({ "ownerReferences": [{ "apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "b" }] }),
        ] {
            assert!(differ::<Deployment>(&json!({ "metadata": {} }), &json!({ "metadata": metadata })), "{metadata}");
        }
    }
}

//! How far a Deployment is, and its autoscaler.

use k8s_openapi::{
    api::{apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler, core::v1::Pod},
    jiff::Timestamp,
};

use super::{conditions::Finding, pods};
use api::Scaling;

/// Whether some version serves.
pub(crate) fn available(deployment: Option<&Deployment>) -> Finding {
    let ready = deployment.and_then(|deployment| deployment.status.as_ref()?.ready_replicas).unwrap_or(0);
    if ready > 0 {
        Finding::good("Available", format!("{ready} pods answer requests"))
    } else {
        Finding::pending("Unavailable", "no pod answers requests")
    }
}

/// Whether the version asked for is the only one, in at least the number asked for.
pub(crate) fn rolled_out(deployment: &Deployment, scaling: &Scaling, pods: &[Pod], now: Timestamp) -> Finding {
    let status = deployment.status.clone().unwrap_or_default();
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let (total, updated) = (status.replicas.unwrap_or(0), status.updated_replicas.unwrap_or(0));
    let available = status.available_replicas.unwrap_or(0);
    let current = status.observed_generation >= deployment.metadata.generation;
    // While the autoscaler adds pods, those that serve already are enough.
    if current && updated == total && available >= wanted.min(scaling.min) {
        return Finding::good("RolledOut", format!("{available} of {wanted} pods are ready"));
    }
    if let Some(trouble) = pods::trouble(pods, now) {
        return trouble;
    }
    let condition = |kind: &str, status: &str| {
        let mut all = deployment.status.iter().flat_map(|status| status.conditions.iter().flatten());
        all.find(|condition| condition.type_ == kind && condition.status == status)
    };
    if let Some(failure) = condition("ReplicaFailure", "True") {
        let message = failure.message.clone().unwrap_or_default();
        let reason = if message.contains("exceeded quota") { "QuotaExceeded" } else { "PodsRefused" };
        return Finding::pending(reason, message);
    }
    let progress = format!("{updated} of {wanted} pods have the new version, {available} of {total} are ready");
    if let Some(stuck) = condition("Progressing", "False").filter(|_| current) {
        let message = stuck.message.clone().unwrap_or_default();
        return Finding::wrong("RolloutStuck", format!("{message} {progress}").trim().to_owned());
    }
    if updated == total && current {
        Finding::pending("PodsNotReady", format!("{available} of {wanted} pods are ready"))
    } else {
        Finding::pending("RollingOut", progress)
    }
}

/// What the autoscaler says.
pub(crate) fn scaling(autoscaler: Option<&HorizontalPodAutoscaler>) -> Finding {
    let status = autoscaler.and_then(|autoscaler| autoscaler.status.as_ref());
    let conditions = || status.into_iter().flat_map(|status| status.conditions.iter().flatten());
    let failed = conditions().find(|condition| {
        matches!(condition.type_.as_str(), "AbleToScale" | "ScalingActive") && condition.status == "False"
    });
    match (failed, conditions().any(|condition| condition.type_ == "ScalingActive")) {
        (Some(failed), _) => Finding::pending("AutoscalerTrouble", failed.message.clone().unwrap_or_default()),
        (None, true) => Finding::good("Autoscaling", "the autoscaler sets the number of pods"),
        (None, false) => Finding::pending("AutoscalerStarting", "the autoscaler has not measured yet"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(status: serde_json::Value) -> Deployment {
        let mut all = serde_json::json!({
            "metadata": { "name": "orders", "generation": 4 },
            "spec": { "replicas": 2, "selector": {}, "template": {} },
        });
        all["status"] = status;
        serde_json::from_value(all).expect("a Deployment")
    }

    fn find(status: serde_json::Value) -> Finding {
        rolled_out(&deployment(status), &Scaling::default(), &[], Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn rolled_out_when_every_pod_is_new_and_enough_are_ready() {
        let done = serde_json::json!({
            "observedGeneration": 4, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2, "readyReplicas": 2,
        });
        assert_eq!(find(done.clone()), Finding::good("RolledOut", "2 of 2 pods are ready"));
        for (field, value) in [("observedGeneration", 3), ("updatedReplicas", 1), ("availableReplicas", 1)] {
            let mut status = done.clone();
            status[field] = value.into();
            assert!(matches!(find(status), Finding::Pending(..)), "{field}");
        }
    }

    #[test]
    fn more_pods_from_the_autoscaler_do_not_make_it_unready() {
        let growing = serde_json::json!({
            "observedGeneration": 4, "replicas": 6, "updatedReplicas": 6, "availableReplicas": 2,
        });
        let mut deployment = deployment(growing);
        deployment.spec.as_mut().expect("it has one").replicas = Some(6);
        let found = rolled_out(&deployment, &Scaling::default(), &[], Timestamp::UNIX_EPOCH);
        assert_eq!(found, Finding::good("RolledOut", "2 of 6 pods are ready"));
    }

    #[test]
    fn a_quota_is_named() {
        let message = "pods \"orders-x\" is forbidden: exceeded quota: compute, requested: pods=1";
        let refused = serde_json::json!({
            "observedGeneration": 4, "conditions": [{ "type": "ReplicaFailure", "status": "True", "message": message }],
        });
        assert_eq!(find(refused), Finding::pending("QuotaExceeded", message));
    }

    #[test]
    fn a_rollout_past_its_deadline_is_stuck() {
        let stuck = serde_json::json!({
            "observedGeneration": 4, "replicas": 3, "updatedReplicas": 1, "availableReplicas": 2,
            "conditions": [{ "type": "Progressing", "status": "False", "message": "it has timed out." }],
        });
        let text = "it has timed out. 1 of 2 pods have the new version, 2 of 3 are ready";
        assert_eq!(find(stuck), Finding::wrong("RolloutStuck", text));
    }
}

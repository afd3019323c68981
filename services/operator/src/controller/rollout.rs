//! The progress of a rollout and the state of the autoscaler.

use k8s_openapi::{
    api::{apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler, core::v1::Pod},
    jiff::Timestamp,
};

use super::{conditions::ConditionResult, pods};
use api::Scaling;

/// Whether any version serves requests.
pub(crate) fn available(deployment: Option<&Deployment>) -> ConditionResult {
    let ready = deployment.and_then(|deployment| deployment.status.as_ref()?.ready_replicas).unwrap_or(0);
    if ready > 0 {
        ConditionResult::ready("Available", format!("ready pods: {ready}"))
    } else {
        ConditionResult::pending("Unavailable", "no pod is ready")
    }
}

/// Whether only the specified version runs, with enough pods.
pub(crate) fn rolled_out(deployment: &Deployment, scaling: &Scaling, pods: &[Pod], now: Timestamp) -> ConditionResult {
    let status = deployment.status.clone().unwrap_or_default();
    let desired = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let (total, updated) = (status.replicas.unwrap_or(0), status.updated_replicas.unwrap_or(0));
    let available = status.available_replicas.unwrap_or(0);
    // During a surge or a scale-down there are more pods than desired. Counts beyond the desired number would not make
    // sense to a reader.
    let (updated_shown, available_shown) = (updated.min(desired), available.min(desired));
    let current = status.observed_generation >= deployment.metadata.generation;
    // While the autoscaler adds pods, the minimum is enough.
    if current && updated == total && available >= desired.min(scaling.min) {
        return ConditionResult::ready("RolledOut", format!("{available_shown} of {desired} pods are ready"));
    }
    if let Some(problem) = pods::problem(pods, now) {
        return problem;
    }
    let condition = |kind: &str, status: &str| {
        let mut all = deployment.status.iter().flat_map(|status| status.conditions.iter().flatten());
        all.find(|condition| condition.type_ == kind && condition.status == status)
    };
    if let Some(failure) = condition("ReplicaFailure", "True") {
        let message = failure.message.clone().unwrap_or_default();
        let reason = if message.contains("exceeded quota") { "QuotaExceeded" } else { "PodsRefused" };
        return ConditionResult::pending(reason, message);
    }
    let progress =
        format!("{updated_shown} of {desired} pods run the new version, {available_shown} of {desired} are ready");
    if let Some(stuck) = condition("Progressing", "False").filter(|_| current) {
        let message = stuck.message.clone().unwrap_or_default();
        return ConditionResult::stalled(
            "RolloutStuck",
            format!("the rollout made no progress before its deadline: {progress}. {message}").trim().to_owned(),
        );
    }
    if updated == total && current {
        ConditionResult::pending("PodsNotReady", format!("{available_shown} of {desired} pods are ready"))
    } else {
        let surplus = if total > desired {
            format!("; {total} pods exist until the old ones have stopped")
        } else {
            String::new()
        };
        ConditionResult::pending("RollingOut", format!("{progress}{surplus}"))
    }
}

/// The state of the autoscaler.
pub(crate) fn scaling(autoscaler: Option<&HorizontalPodAutoscaler>) -> ConditionResult {
    let status = autoscaler.and_then(|autoscaler| autoscaler.status.as_ref());
    let conditions = || status.into_iter().flat_map(|status| status.conditions.iter().flatten());
    let failed = conditions().find(|condition| {
        matches!(condition.type_.as_str(), "AbleToScale" | "ScalingActive") && condition.status == "False"
    });
    match (failed, conditions().any(|condition| condition.type_ == "ScalingActive")) {
        (Some(failed), _) => ConditionResult::pending("AutoscalerFailing", failed.message.clone().unwrap_or_default()),
        (None, true) => ConditionResult::ready("Autoscaling", "the autoscaler controls the number of pods"),
        (None, false) => {
            ConditionResult::pending("AutoscalerStarting", "waiting for the autoscaler's first measurement")
        }
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

    fn find(status: serde_json::Value) -> ConditionResult {
        rolled_out(&deployment(status), &Scaling::default(), &[], Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn scale_down_never_reports_more_ready_pods_than_desired() {
        let status = serde_json::json!({
            "observedGeneration": 4, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3,
        });
        assert_eq!(find(status).text().1, "2 of 2 pods are ready");
    }

    #[test]
    fn rolled_out_needs_only_new_pods_and_enough_ready() {
        let done = serde_json::json!({
            "observedGeneration": 4, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2, "readyReplicas": 2,
        });
        assert_eq!(find(done.clone()), ConditionResult::ready("RolledOut", "2 of 2 pods are ready"));
        for (field, value) in [("observedGeneration", 3), ("updatedReplicas", 1), ("availableReplicas", 1)] {
            let mut status = done.clone();
            status[field] = value.into();
            assert!(matches!(find(status), ConditionResult::Pending(..)), "{field}");
        }
    }

    #[test]
    fn scaling_up_does_not_make_a_service_unready() {
        let growing = serde_json::json!({
            "observedGeneration": 4, "replicas": 6, "updatedReplicas": 6, "availableReplicas": 2,
        });
        let mut deployment = deployment(growing);
        deployment.spec.as_mut().expect("it has one").replicas = Some(6);
        let found = rolled_out(&deployment, &Scaling::default(), &[], Timestamp::UNIX_EPOCH);
        assert_eq!(found, ConditionResult::ready("RolledOut", "2 of 6 pods are ready"));
    }

    #[test]
    fn an_exceeded_quota_is_reported() {
        let message = "pods \"orders-x\" is forbidden: exceeded quota: compute, requested: pods=1";
        let refused = serde_json::json!({
            "observedGeneration": 4, "conditions": [{ "type": "ReplicaFailure", "status": "True", "message": message }],
        });
        assert_eq!(find(refused), ConditionResult::pending("QuotaExceeded", message));
    }

    #[test]
    fn a_rollout_past_its_deadline_stalls() {
        let stuck = serde_json::json!({
            "observedGeneration": 4, "replicas": 3, "updatedReplicas": 1, "availableReplicas": 2,
            "conditions": [{ "type": "Progressing", "status": "False", "message": "it has timed out." }],
        });
        let text = "the rollout made no progress before its deadline: 1 of 2 pods run the new version, 2 of 2 are ready. it \
                    has timed out.";
        assert_eq!(find(stuck), ConditionResult::stalled("RolloutStuck", text));
    }

    #[test]
    fn counts_during_a_surge_do_not_exceed_the_desired_number() {
        let surge = serde_json::json!({
            "observedGeneration": 4, "replicas": 4, "updatedReplicas": 3, "availableReplicas": 3,
        });
        let text = "2 of 2 pods run the new version, 2 of 2 are ready; 4 pods exist until the old ones have stopped";
        assert_eq!(find(surge), ConditionResult::pending("RollingOut", text));
        let begun = serde_json::json!({
            "observedGeneration": 4, "replicas": 3, "updatedReplicas": 1, "availableReplicas": 2,
        });
        let text = "1 of 2 pods run the new version, 2 of 2 are ready; 3 pods exist until the old ones have stopped";
        assert_eq!(find(begun), ConditionResult::pending("RollingOut", text));
    }
}

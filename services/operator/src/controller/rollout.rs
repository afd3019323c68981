//! The progress of a rollout and the state of the autoscaler.

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::PodTemplateSpec,
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

/// The replica set of the current template, which the Deployment controller recognises in the same way: by its template,
/// and of several equal ones by its age.
pub(crate) fn current<'a>(deployment: &Deployment, sets: &'a [ReplicaSet]) -> Option<&'a ReplicaSet> {
    let template = &deployment.spec.as_ref()?.template;
    let is_current = |set: &ReplicaSet| {
        let mut of_set = set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
        if let Some(labels) = of_set.metadata.as_mut().and_then(|metadata| metadata.labels.as_mut()) {
            labels.remove("pod-template-hash");
        }
        of_set == *template
    };
    sets.iter().filter(|set| is_current(set)).min_by_key(|set| set.metadata.creation_timestamp.clone())
}

/// The image that serves once only the current template runs.
pub(crate) fn template_image(deployment: &Deployment) -> Option<String> {
    image(&deployment.spec.as_ref()?.template)
}

/// The image of most of the ready pods, or of the newest if several have as many.
pub(crate) fn serving_image(sets: &[ReplicaSet]) -> Option<String> {
    let ready = |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let serving = sets.iter().filter(|set| ready(set) > 0);
    let most = serving.max_by_key(|set| (ready(set), set.metadata.creation_timestamp.clone()))?;
    image(most.spec.as_ref()?.template.as_ref()?)
}

fn image(template: &PodTemplateSpec) -> Option<String> {
    template.spec.as_ref()?.containers.first()?.image.clone()
}

/// Whether only the specified version runs, with enough pods. `set` is the replica set of the current template, and
/// `problem` that of its pods: what is wrong with older ones does not matter.
pub(crate) fn rolled_out(
    deployment: &Deployment,
    scaling: &Scaling,
    set: Option<&ReplicaSet>,
    problem: Option<ConditionResult>,
) -> ConditionResult {
    let status = deployment.status.clone().unwrap_or_default();
    // Until the Deployment controller has seen the change, the status and the pods are those of what was before.
    if status.observed_generation < deployment.metadata.generation {
        return ConditionResult::pending("RollingOut", "waiting for the rollout to start");
    }
    if deployment.spec.as_ref().is_some_and(|spec| spec.paused == Some(true)) {
        return ConditionResult::pending("Paused", "the rollout is paused: spec.paused of the Deployment is true");
    }
    let desired = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let (total, updated) = (status.replicas.unwrap_or(0), status.updated_replicas.unwrap_or(0));
    let available = status.available_replicas.unwrap_or(0);
    // During a surge or a scale-down there are more pods than desired. Counts beyond the desired number would not make
    // sense to a reader.
    let (updated_shown, available_shown) = (updated.min(desired), available.min(desired));
    // While the autoscaler adds pods, the minimum is enough.
    if updated == total && available >= scaling.min {
        return ConditionResult::ready("RolledOut", format!("{available_shown} of {desired} pods are ready"));
    }
    if let Some(problem) = problem {
        return problem;
    }
    let condition = |kind: &str, status: &str| {
        let mut all = deployment.status.iter().flat_map(|status| status.conditions.iter().flatten());
        all.find(|condition| condition.type_ == kind && condition.status == status)
    };
    if let Some(failure) = condition("ReplicaFailure", "True") {
        return pods::refused(failure.message.as_deref().unwrap_or_default());
    }
    let progress =
        format!("{updated_shown} of {desired} pods run the new version, {available_shown} of {desired} are ready");
    // The condition outlives the rollout that it is about, whose replica set it names.
    let name = set.and_then(|set| set.metadata.name.as_deref());
    let stuck = condition("Progressing", "False").and_then(|stuck| stuck.message.as_deref());
    if let Some(message) = stuck.filter(|message| name.is_some_and(|name| message.contains(&format!("\"{name}\"")))) {
        return ConditionResult::stalled(
            "RolloutStuck",
            format!("the rollout made no progress before its deadline: {progress}. {message}"),
        );
    }
    if updated == total {
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
    use k8s_openapi::jiff::Timestamp;

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
        rolled_out(&deployment(status), &Scaling::default(), None, None)
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
        let found = rolled_out(&deployment, &Scaling::default(), None, None);
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
        let stuck = deployment(serde_json::json!({
            "observedGeneration": 4, "replicas": 3, "updatedReplicas": 1, "availableReplicas": 2,
            "conditions": [{
                "type": "Progressing", "status": "False", "message": "ReplicaSet \"orders-2\" has timed out progressing.",
            }],
        }));
        let find = |set| rolled_out(&stuck, &Scaling::default(), Some(&set), None);
        let text = "the rollout made no progress before its deadline: 1 of 2 pods run the new version, 2 of 2 are ready. \
                    ReplicaSet \"orders-2\" has timed out progressing.";
        assert_eq!(find(set("orders-2", "b", 1, 0)), ConditionResult::stalled("RolloutStuck", text));
        let found = find(set("orders-1", "a", 0, 2));
        assert!(matches!(found, ConditionResult::Pending("RollingOut", _)), "back to an older version: {found:?}");
    }

    fn set(name: &str, image: &str, created: i64, ready: i32) -> ReplicaSet {
        let created = Timestamp::from_second(created).expect("a time").to_string();
        let set = serde_json::json!({
            "metadata": { "name": name, "creationTimestamp": created },
            "spec": { "selector": {}, "template": {
                "metadata": { "labels": { "app": "orders", "pod-template-hash": name } },
                "spec": { "containers": [{ "name": "main", "image": image }] },
            } },
            "status": { "replicas": 2, "readyReplicas": ready },
        });
        serde_json::from_value(set).expect("a replica set")
    }

    #[test]
    fn the_current_replica_set_has_the_template_of_the_deployment() {
        let sets = [set("one", "a", 1, 0), set("two", "b", 2, 0), set("three", "b", 3, 0)];
        let mut deployment = deployment(serde_json::json!({}));
        let mut template = sets[1].spec.clone().expect("it has one").template.expect("it has one");
        template
            .metadata
            .as_mut()
            .and_then(|metadata| metadata.labels.as_mut())
            .expect("labels")
            .remove("pod-template-hash");
        deployment.spec.as_mut().expect("it has one").template = template;
        let name = |found: Option<&ReplicaSet>| found.and_then(|set| set.metadata.name.clone());
        assert_eq!(name(current(&deployment, &sets)).as_deref(), Some("two"));
        assert_eq!(name(current(&deployment, &sets[..1])), None, "it has not been created yet");
    }

    #[test]
    fn the_image_is_that_of_most_ready_pods() {
        let image = |ready: [i32; 2]| serving_image(&[set("one", "a", 1, ready[0]), set("two", "b", 2, ready[1])]);
        assert_eq!(image([2, 0]).as_deref(), Some("a"));
        assert_eq!(image([2, 1]).as_deref(), Some("a"));
        assert_eq!(image([1, 1]).as_deref(), Some("b"), "the newer one");
        assert_eq!(image([0, 0]), None);
    }

    #[test]
    fn nothing_is_said_of_a_change_before_it_is_observed() {
        let stale = serde_json::json!({
            "observedGeneration": 3, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 0,
            "conditions": [{ "type": "Progressing", "status": "False", "message": "timed out" }],
        });
        let crashing = ConditionResult::stalled("Crashing", "pod orders-1 crashed");
        let found = rolled_out(&deployment(stale), &Scaling::default(), None, Some(crashing));
        assert!(matches!(found, ConditionResult::Pending("RollingOut", _)), "{found:?}");
    }

    #[test]
    fn a_deployment_scaled_to_zero_is_not_ready() {
        let empty = serde_json::json!({ "observedGeneration": 4, "replicas": 0, "updatedReplicas": 0 });
        let mut deployment = deployment(empty);
        deployment.spec.as_mut().expect("it has one").replicas = Some(0);
        let found = rolled_out(&deployment, &Scaling::default(), None, None);
        assert!(matches!(found, ConditionResult::Pending("PodsNotReady", _)), "{found:?}");
    }

    #[test]
    fn a_paused_rollout_is_named() {
        let done = serde_json::json!({
            "observedGeneration": 4, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2,
        });
        let mut deployment = deployment(done);
        deployment.spec.as_mut().expect("it has one").paused = Some(true);
        let found = rolled_out(&deployment, &Scaling::default(), None, None);
        assert!(matches!(found, ConditionResult::Pending("Paused", _)), "{found:?}");
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

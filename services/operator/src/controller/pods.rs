//! Finds what is wrong with pods, from their statuses.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use k8s_openapi::{
    api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod},
    jiff::{SignedDuration, Timestamp},
};

use super::conditions::ConditionResult;

/// The reason of an image that cannot be pulled.
pub(super) const IMAGE_PULL: &str = "ImagePull";

/// After this time, an image that cannot be pulled stalls the object.
const PULL_GRACE_PERIOD: SignedDuration = SignedDuration::from_secs(20);
/// After this many crashes, a container stalls the object.
const STALLED_AFTER_CRASHES: i32 = 3;

/// An image that could not be pulled for this long can be again: the next error is another one. This is longer than a
/// reconcile takes to notice that a container started.
const PULL_ERROR_LAPSES_AFTER: SignedDuration = SignedDuration::from_mins(2);

/// When it was noticed that images of pods cannot be pulled, by pod and container. Their statuses do not say it.
#[derive(Default)]
pub(crate) struct PullErrors(Mutex<HashMap<(String, String), PullError>>);

struct PullError {
    first_seen: Timestamp,
    last_seen: Timestamp,
}

impl PullErrors {
    /// Records the error of a container. Returns how long ago it was first seen.
    pub(super) fn observe(&self, pod: &Pod, container: &str, now: Timestamp) -> SignedDuration {
        let mut errors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        errors.retain(|_, error| now.duration_since(error.last_seen) < PULL_ERROR_LAPSES_AFTER);
        let error = errors.entry(key(pod, container)).or_insert(PullError { first_seen: now, last_seen: now });
        error.last_seen = now;
        now.duration_since(error.first_seen)
    }

    /// Forgets the error of a container that runs.
    pub(super) fn forget(&self, pod: &Pod, container: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&key(pod, container));
    }
}

fn key(pod: &Pod, container: &str) -> (String, String) {
    (pod.metadata.uid.clone().unwrap_or_default(), container.to_owned())
}

/// The worst problem of the pods, or `None` if they are running or starting normally.
pub(crate) fn problem(pods: &[Pod], pull_errors: &PullErrors, now: Timestamp) -> Option<ConditionResult> {
    let mut found: Vec<ConditionResult> = pods.iter().filter_map(|pod| pod_problem(pod, pull_errors, now)).collect();
    let stalled = found.iter().position(|result| matches!(result, ConditionResult::Stalled(..)));
    (!found.is_empty()).then(|| found.swap_remove(stalled.unwrap_or(0)))
}

/// The result if the API server refuses to create pods, with its message.
pub(crate) fn refused(message: &str) -> ConditionResult {
    let reason = if message.contains("exceeded quota") { "QuotaExceeded" } else { "PodsRefused" };
    ConditionResult::pending(reason, message)
}

fn pod_problem(pod: &Pod, pull_errors: &PullErrors, now: Timestamp) -> Option<ConditionResult> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = pod.status.as_ref()?;
    let mut conditions = status.conditions.iter().flatten();
    let unscheduled = conditions.find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    if let Some(unscheduled) = unscheduled {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let message = unscheduled.message.as_deref().unwrap_or("no node fits this pod");
        return Some(ConditionResult::pending("Unschedulable", format!("pod {name} cannot be scheduled: {message}")));
    }
    let containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    containers.into_iter().find_map(|container| container_problem(pod, container, pull_errors, now))
}

fn container_problem(
    pod: &Pod,
    container: &ContainerStatus,
    pull_errors: &PullErrors,
    now: Timestamp,
) -> Option<ConditionResult> {
    let state = container.state.as_ref()?;
    if state.running.is_some() {
        pull_errors.forget(pod, &container.name);
    }
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let waiting = state.waiting.as_ref();
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
    let message = waiting.and_then(|waiting| waiting.message.as_deref()).unwrap_or_default();
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName" | "RegistryUnavailable" => {
            let text = format!("image {} cannot be pulled: {reason}: {message}", image(pod, container));
            let age = pull_errors.observe(pod, &container.name, now);
            let stalled = age >= PULL_GRACE_PERIOD || reason == "InvalidImageName";
            Some(if stalled {
                ConditionResult::stalled(IMAGE_PULL, text)
            } else {
                ConditionResult::pending(IMAGE_PULL, text)
            })
        }
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => Some(ConditionResult::pending(
            "ContainerCannotStart",
            format!("pod {name} cannot start: {reason}: {message}"),
        )),
        _ => {
            // Waiting for a restart, just terminated, or restarted after a crash and not ready yet.
            let last = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
            let ended = state.terminated.as_ref().or(last)?;
            if container.ready || ended.exit_code == 0 && reason != "CrashLoopBackOff" {
                return None;
            }
            let text = format!("pod {name} crashed (restarts: {}); last {}", container.restart_count, describe(ended));
            let stalled = container.restart_count >= STALLED_AFTER_CRASHES;
            Some(if stalled {
                ConditionResult::stalled("Crashing", text)
            } else {
                ConditionResult::pending("Crashing", text)
            })
        }
    }
}

/// The image that is specified. The status has the name that the node resolved it to, or that of an earlier one.
fn image<'a>(pod: &'a Pod, container: &'a ContainerStatus) -> &'a str {
    let spec = pod.spec.iter();
    let mut containers = spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    let specified = containers.find(|specified| specified.name == container.name);
    specified.and_then(|specified| specified.image.as_deref()).unwrap_or(&container.image)
}

/// The exit code of a container, with its reason and termination message if it has any.
pub(crate) fn describe(ended: &ContainerStateTerminated) -> String {
    let mut text = format!("exit code {}", ended.exit_code);
    match ended.reason.as_deref() {
        None | Some("Error" | "Completed") => {}
        Some(reason) => text = format!("{text} ({reason})"),
    }
    match ended.message.as_deref().map(str::trim) {
        None | Some("") => text,
        Some(message) => format!("{text}: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(container: &serde_json::Value) -> Vec<Pod> {
        let pod = serde_json::json!({
            "metadata": { "name": "orders-1", "uid": "the-uid" },
            "spec": { "containers": [{ "name": "main", "image": "localhost/orders:1" }] },
            "status": {
                "conditions": [{ "type": "PodScheduled", "status": "True", "lastTransitionTime": "1970-01-01T00:00:00Z" }],
                "containerStatuses": [container],
            },
        });
        vec![serde_json::from_value(pod).expect("a pod")]
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn find(container: &serde_json::Value) -> Option<ConditionResult> {
        problem(&pod(container), &PullErrors::default(), at(1_000))
    }

    fn container(ready: bool, restarts: i32, state: &serde_json::Value, last: &serde_json::Value) -> serde_json::Value {
        serde_json::json!({
            "name": "main", "image": "sha256:0123", "imageID": "", "ready": ready,
            "restartCount": restarts, "state": state, "lastState": last,
        })
    }

    #[test]
    fn an_image_that_cannot_be_pulled_stalls_after_a_while() {
        let text = |reason: &str| format!("image localhost/orders:1 cannot be pulled: {reason}: not found");
        let waiting = |reason: &str| {
            let waiting = serde_json::json!({ "waiting": { "reason": reason, "message": "not found" } });
            pod(&container(false, 1, &waiting, &serde_json::json!({})))
        };
        let (failed, waits) = (waiting("ErrImagePull"), waiting("ImagePullBackOff"));
        let errors = PullErrors::default();
        let find = |pod: &[Pod], second| problem(pod, &errors, at(second));
        // The pod is old: its container restarts, and the image is gone.
        assert_eq!(find(&failed, 1_000), Some(ConditionResult::pending("ImagePull", text("ErrImagePull"))));
        assert_eq!(find(&waits, 1_019), Some(ConditionResult::pending("ImagePull", text("ImagePullBackOff"))));
        let ended = serde_json::json!({ "terminated": { "exitCode": 2 } });
        let crashed = pod(&container(false, 1, &ended, &serde_json::json!({})));
        assert!(matches!(find(&crashed, 1_019), Some(ConditionResult::Pending("Crashing", _))), "for a moment");
        assert_eq!(find(&failed, 1_020), Some(ConditionResult::stalled("ImagePull", text("ErrImagePull"))));

        let running = pod(&container(true, 2, &serde_json::json!({ "running": {} }), &ended));
        assert_eq!(find(&running, 1_030), None);
        let again = Some(ConditionResult::pending("ImagePull", text("ErrImagePull")));
        assert_eq!(find(&failed, 1_031), again, "a start resets it");
        assert_eq!(find(&failed, 2_000), again, "a start that nobody saw does too");
    }

    #[test]
    fn an_invalid_image_name_stalls_at_once() {
        let waiting = serde_json::json!({ "waiting": { "reason": "InvalidImageName", "message": "invalid" } });
        let found = find(&container(false, 0, &waiting, &serde_json::json!({})));
        assert!(matches!(found, Some(ConditionResult::Stalled("ImagePull", _))), "{found:?}");
    }

    #[test]
    fn a_crashing_container_stalls_after_three_crashes() {
        let waiting = serde_json::json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "back-off" } });
        let ended =
            serde_json::json!({ "terminated": { "exitCode": 2, "reason": "Error", "message": "no DATABASE_URL\n" } });
        let text = |times| format!("pod orders-1 crashed (restarts: {times}); last exit code 2: no DATABASE_URL");
        let once = container(false, 1, &waiting, &ended);
        assert_eq!(find(&once), Some(ConditionResult::pending("Crashing", text(1))));
        let often = container(false, 3, &waiting, &ended);
        assert_eq!(find(&often), Some(ConditionResult::stalled("Crashing", text(3))));
        let running = serde_json::json!({ "running": {} });
        assert!(find(&container(false, 3, &running, &ended)).is_some(), "restarted, but not ready");
        assert_eq!(find(&container(true, 3, &running, &ended)), None, "it recovered");
    }

    #[test]
    fn running_out_of_memory_is_reported() {
        let ended = serde_json::json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
        let found = find(&container(false, 0, &ended, &serde_json::json!({})));
        let text = "pod orders-1 crashed (restarts: 0); last exit code 137 (OOMKilled)";
        assert_eq!(found, Some(ConditionResult::pending("Crashing", text)));
    }

    #[test]
    fn an_unschedulable_pod_is_reported() {
        let pod = serde_json::json!({
            "metadata": { "name": "orders-1" },
            "status": { "conditions": [{ "type": "PodScheduled", "status": "False", "message": "0/1 nodes are available" }] },
        });
        let pods = vec![serde_json::from_value(pod).expect("a pod")];
        let found = problem(&pods, &PullErrors::default(), Timestamp::UNIX_EPOCH);
        assert_eq!(
            found,
            Some(ConditionResult::pending(
                "Unschedulable",
                "pod orders-1 cannot be scheduled: 0/1 nodes are available"
            ))
        );
    }

    #[test]
    fn a_starting_pod_is_not_a_problem() {
        let waiting = serde_json::json!({ "waiting": { "reason": "ContainerCreating" } });
        assert_eq!(find(&container(false, 0, &waiting, &serde_json::json!({}))), None);
    }
}

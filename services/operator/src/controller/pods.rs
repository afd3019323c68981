//! Finds what is wrong with pods, from their statuses.

use k8s_openapi::{
    api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod},
    jiff::{SignedDuration, Timestamp},
};

use super::conditions::ConditionResult;

/// After this time, an image that cannot be pulled stalls the object.
const PULL_GRACE_PERIOD: SignedDuration = SignedDuration::from_secs(20);
/// After this many crashes, a container stalls the object.
const STALLED_AFTER_CRASHES: i32 = 3;

/// The worst problem of the pods, or `None` if they are running or starting normally.
pub(crate) fn problem(pods: &[Pod], now: Timestamp) -> Option<ConditionResult> {
    let mut found: Vec<ConditionResult> = pods.iter().filter_map(|pod| pod_problem(pod, now)).collect();
    let stalled = found.iter().position(|result| matches!(result, ConditionResult::Stalled(..)));
    (!found.is_empty()).then(|| found.swap_remove(stalled.unwrap_or(0)))
}

fn pod_problem(pod: &Pod, now: Timestamp) -> Option<ConditionResult> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = pod.status.as_ref()?;
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let conditions = status.conditions.iter().flatten();
    let scheduled = conditions.clone().find(|condition| condition.type_ == "PodScheduled");
    if let Some(unscheduled) = scheduled.filter(|condition| condition.status == "False") {
        let message = unscheduled.message.as_deref().unwrap_or("no node fits this pod");
        return Some(ConditionResult::pending("Unschedulable", format!("pod {name} cannot be scheduled: {message}")));
    }
    let since = scheduled.and_then(|condition| condition.last_transition_time.as_ref()).map_or(now, |time| time.0);
    let containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    containers.into_iter().find_map(|container| container_problem(name, container, now.duration_since(since)))
}

fn container_problem(pod: &str, container: &ContainerStatus, age: SignedDuration) -> Option<ConditionResult> {
    let state = container.state.as_ref()?;
    let waiting = state.waiting.as_ref();
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
    let message = waiting.and_then(|waiting| waiting.message.as_deref()).unwrap_or_default();
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName" | "RegistryUnavailable" => {
            let text = format!("image {} cannot be pulled: {reason}: {message}", container.image);
            let stalled = age >= PULL_GRACE_PERIOD || reason == "InvalidImageName";
            Some(if stalled {
                ConditionResult::stalled("ImagePull", text)
            } else {
                ConditionResult::pending("ImagePull", text)
            })
        }
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => Some(ConditionResult::pending(
            "ContainerCannotStart",
            format!("pod {pod} cannot start: {reason}: {message}"),
        )),
        _ => {
            // Waiting for a restart, just terminated, or restarted after a crash and not ready yet.
            let last = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
            let ended = state.terminated.as_ref().or(last)?;
            if container.ready || ended.exit_code == 0 && reason != "CrashLoopBackOff" {
                return None;
            }
            let text = format!("pod {pod} crashed (restarts: {}); last {}", container.restart_count, describe(ended));
            let stalled = container.restart_count >= STALLED_AFTER_CRASHES;
            Some(if stalled {
                ConditionResult::stalled("Crashing", text)
            } else {
                ConditionResult::pending("Crashing", text)
            })
        }
    }
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

    fn pod(container: &serde_json::Value, age: i64) -> Vec<Pod> {
        let scheduled = Timestamp::from_second(1_000 - age).expect("a time").to_string();
        let pod = serde_json::json!({
            "metadata": { "name": "orders-1" },
            "status": {
                "conditions": [{ "type": "PodScheduled", "status": "True", "lastTransitionTime": scheduled }],
                "containerStatuses": [container],
            },
        });
        vec![serde_json::from_value(pod).expect("a pod")]
    }

    fn find(container: &serde_json::Value, age: i64) -> Option<ConditionResult> {
        problem(&pod(container, age), Timestamp::from_second(1_000).expect("a time"))
    }

    fn container(ready: bool, restarts: i32, state: &serde_json::Value, last: &serde_json::Value) -> serde_json::Value {
        serde_json::json!({
            "name": "main", "image": "localhost/orders:1", "imageID": "", "ready": ready,
            "restartCount": restarts, "state": state, "lastState": last,
        })
    }

    #[test]
    fn an_image_that_cannot_be_pulled_stalls_after_a_while() {
        let waiting = serde_json::json!({ "waiting": { "reason": "ErrImagePull", "message": "not found" } });
        let container = container(false, 0, &waiting, &serde_json::json!({}));
        let text = "image localhost/orders:1 cannot be pulled: ErrImagePull: not found";
        assert_eq!(find(&container, 5), Some(ConditionResult::pending("ImagePull", text)));
        assert_eq!(find(&container, 20), Some(ConditionResult::stalled("ImagePull", text)));
    }

    #[test]
    fn a_crashing_container_stalls_after_three_crashes() {
        let waiting = serde_json::json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "back-off" } });
        let ended =
            serde_json::json!({ "terminated": { "exitCode": 2, "reason": "Error", "message": "no DATABASE_URL\n" } });
        let text = |times| format!("pod orders-1 crashed (restarts: {times}); last exit code 2: no DATABASE_URL");
        let once = container(false, 1, &waiting, &ended);
        assert_eq!(find(&once, 60), Some(ConditionResult::pending("Crashing", text(1))));
        let often = container(false, 3, &waiting, &ended);
        assert_eq!(find(&often, 60), Some(ConditionResult::stalled("Crashing", text(3))));
        let running = serde_json::json!({ "running": {} });
        assert!(find(&container(false, 3, &running, &ended), 60).is_some(), "restarted, but not ready");
        assert_eq!(find(&container(true, 3, &running, &ended), 60), None, "it recovered");
    }

    #[test]
    fn running_out_of_memory_is_reported() {
        let ended = serde_json::json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
        let found = find(&container(false, 0, &ended, &serde_json::json!({})), 1);
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
        let found = problem(&pods, Timestamp::UNIX_EPOCH);
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
        assert_eq!(find(&container(false, 0, &waiting, &serde_json::json!({})), 60), None);
    }
}

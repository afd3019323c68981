//! What is wrong with a set of pods, in the words of the pods themselves.

use k8s_openapi::{
    api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod},
    jiff::{SignedDuration, Timestamp},
};

use super::conditions::Finding;

/// An image that cannot be pulled for so long is not just slow to come.
const PULL_PATIENCE: SignedDuration = SignedDuration::from_secs(20);
/// So many crashes are no accident.
const CRASHES: i32 = 3;

/// What is wrong with the pods: the worst first; `None` where they are fine, or merely starting.
pub(crate) fn trouble(pods: &[Pod], now: Timestamp) -> Option<Finding> {
    let mut found: Vec<Finding> = pods.iter().filter_map(|pod| trouble_of(pod, now)).collect();
    let wrong = found.iter().position(|finding| matches!(finding, Finding::Wrong(..)));
    (!found.is_empty()).then(|| found.swap_remove(wrong.unwrap_or(0)))
}

fn trouble_of(pod: &Pod, now: Timestamp) -> Option<Finding> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = pod.status.as_ref()?;
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let conditions = status.conditions.iter().flatten();
    let scheduled = conditions.clone().find(|condition| condition.type_ == "PodScheduled");
    if let Some(unscheduled) = scheduled.filter(|condition| condition.status == "False") {
        let message = unscheduled.message.as_deref().unwrap_or("no node takes it");
        return Some(Finding::pending("Unschedulable", format!("pod {name}: {message}")));
    }
    let since = scheduled.and_then(|condition| condition.last_transition_time.as_ref()).map_or(now, |time| time.0);
    let containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    containers.into_iter().find_map(|container| trouble_of_container(name, container, now.duration_since(since)))
}

fn trouble_of_container(pod: &str, container: &ContainerStatus, age: SignedDuration) -> Option<Finding> {
    let state = container.state.as_ref()?;
    let waiting = state.waiting.as_ref();
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
    let message = waiting.and_then(|waiting| waiting.message.as_deref()).unwrap_or_default();
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName" | "RegistryUnavailable" => {
            let text = format!("image {} cannot be pulled: {reason}: {message}", container.image);
            let hopeless = age >= PULL_PATIENCE || reason == "InvalidImageName";
            Some(if hopeless { Finding::wrong("ImagePull", text) } else { Finding::pending("ImagePull", text) })
        }
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            Some(Finding::pending("ContainerCannotStart", format!("pod {pod}: {reason}: {message}")))
        }
        _ => {
            // Waiting to be started again, or just ended, or running again after a crash but not ready yet.
            let last = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
            let ended = state.terminated.as_ref().or(last)?;
            if container.ready || ended.exit_code == 0 && reason != "CrashLoopBackOff" {
                return None;
            }
            let text = format!("pod {pod} crashed {} times; last: {}", container.restart_count, describe(ended));
            let hopeless = container.restart_count >= CRASHES;
            Some(if hopeless { Finding::wrong("Crashing", text) } else { Finding::pending("Crashing", text) })
        }
    }
}

/// How a container ended: its exit code, and its own last words where it left any.
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

    fn find(container: &serde_json::Value, age: i64) -> Option<Finding> {
        trouble(&pod(container, age), Timestamp::from_second(1_000).expect("a time"))
    }

    fn container(ready: bool, restarts: i32, state: &serde_json::Value, last: &serde_json::Value) -> serde_json::Value {
        serde_json::json!({
            "name": "main", "image": "localhost/orders:1", "imageID": "", "ready": ready,
            "restartCount": restarts, "state": state, "lastState": last,
        })
    }

    #[test]
    fn an_image_that_does_not_come() {
        let waiting = serde_json::json!({ "waiting": { "reason": "ErrImagePull", "message": "not found" } });
        let container = container(false, 0, &waiting, &serde_json::json!({}));
        let text = "image localhost/orders:1 cannot be pulled: ErrImagePull: not found";
        assert_eq!(find(&container, 5), Some(Finding::pending("ImagePull", text)));
        assert_eq!(find(&container, 20), Some(Finding::wrong("ImagePull", text)));
    }

    #[test]
    fn a_container_that_crashes() {
        let waiting = serde_json::json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "back-off" } });
        let ended =
            serde_json::json!({ "terminated": { "exitCode": 2, "reason": "Error", "message": "no DATABASE_URL\n" } });
        let text = |times| format!("pod orders-1 crashed {times} times; last: exit code 2: no DATABASE_URL");
        let once = container(false, 1, &waiting, &ended);
        assert_eq!(find(&once, 60), Some(Finding::pending("Crashing", text(1))));
        let often = container(false, 3, &waiting, &ended);
        assert_eq!(find(&often, 60), Some(Finding::wrong("Crashing", text(3))));
        let running = serde_json::json!({ "running": {} });
        assert!(find(&container(false, 3, &running, &ended), 60).is_some(), "up again, but not ready");
        assert_eq!(find(&container(true, 3, &running, &ended), 60), None, "it came back");
    }

    #[test]
    fn out_of_memory_is_named() {
        let ended = serde_json::json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
        let found = find(&container(false, 0, &ended, &serde_json::json!({})), 1);
        let text = "pod orders-1 crashed 0 times; last: exit code 137 (OOMKilled)";
        assert_eq!(found, Some(Finding::pending("Crashing", text)));
    }

    #[test]
    fn a_pod_that_no_node_takes() {
        let pod = serde_json::json!({
            "metadata": { "name": "orders-1" },
            "status": { "conditions": [{ "type": "PodScheduled", "status": "False", "message": "0/1 nodes are available" }] },
        });
        let pods = vec![serde_json::from_value(pod).expect("a pod")];
        let found = trouble(&pods, Timestamp::UNIX_EPOCH);
        assert_eq!(found, Some(Finding::pending("Unschedulable", "pod orders-1: 0/1 nodes are available")));
    }

    #[test]
    fn a_pod_that_starts_is_no_trouble() {
        let waiting = serde_json::json!({ "waiting": { "reason": "ContainerCreating" } });
        assert_eq!(find(&container(false, 0, &waiting, &serde_json::json!({})), 60), None);
    }
}

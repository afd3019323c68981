//! What a container asks for and may use.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::api::resource::Quantity};

type Amounts = BTreeMap<String, Quantity>;

/// The spec's resources, and a default for each that it says nothing of.
///
/// CPU is always requested, or an autoscaler could not tell how much of it is used. It has no limit: that would slow a
/// service down while the node has nothing else to do. Nor has storage: the file system is read-only, and the log,
/// which counts, must not be what ends a pod.
pub(super) fn complete(given: Option<&ResourceRequirements>) -> ResourceRequirements {
    let mut resources = given.cloned().unwrap_or_default();
    let says = |name: &str| {
        let given = given.iter().flat_map(|given| [&given.requests, &given.limits]).flatten();
        given.into_iter().any(|amounts| amounts.contains_key(name))
    };
    let (cpu, memory) = (says("cpu"), says("memory"));
    let mut set = |amounts: fn(&mut ResourceRequirements) -> &mut Option<Amounts>, name: &str, amount: &str| {
        amounts(&mut resources).get_or_insert_default().insert(name.to_owned(), Quantity(amount.to_owned()));
    };
    if !cpu {
        set(|all| &mut all.requests, "cpu", "50m");
    }
    if !memory {
        set(|all| &mut all.requests, "memory", "64Mi");
        set(|all| &mut all.limits, "memory", "256Mi");
    }
    resources
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::complete;

    fn completed(given: Value) -> Value {
        let given = serde_json::from_value(given).expect("resources");
        serde_json::to_value(complete(Some(&given))).expect("JSON")
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let all = json!({ "requests": { "cpu": "50m", "memory": "64Mi" }, "limits": { "memory": "256Mi" } });
        assert_eq!(serde_json::to_value(complete(None)).expect("JSON"), all);
        assert_eq!(completed(json!({})), all);
        assert_eq!(
            completed(json!({ "limits": { "cpu": "1" } })),
            json!({ "requests": { "memory": "64Mi" }, "limits": { "cpu": "1", "memory": "256Mi" } })
        );
    }

    #[test]
    fn a_default_never_contradicts_what_is_said() {
        let more = json!({ "requests": { "memory": "1Gi" } });
        assert_eq!(completed(more), json!({ "requests": { "cpu": "50m", "memory": "1Gi" } }));
        let less = json!({ "limits": { "memory": "32Mi" } });
        assert_eq!(completed(less), json!({ "requests": { "cpu": "50m" }, "limits": { "memory": "32Mi" } }));
    }
}

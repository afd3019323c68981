//! The resource requests and limits of a container.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::api::resource::Quantity};

type Amounts = BTreeMap<String, Quantity>;

/// Adds a default for each resource that the spec does not mention.
///
/// CPU is always requested, because the autoscaler computes utilization from the request. It has no limit, which would
/// throttle a service on an idle node. Ephemeral storage has no limit either: the file system is read-only, and a pod
/// must not be evicted because of its log.
pub(super) fn with_defaults(given: Option<&ResourceRequirements>) -> ResourceRequirements {
    let mut resources = given.cloned().unwrap_or_default();
    let is_set = |name: &str| {
        let given = given.iter().flat_map(|given| [&given.requests, &given.limits]).flatten();
        given.into_iter().any(|amounts| amounts.contains_key(name))
    };
    let (cpu, memory) = (is_set("cpu"), is_set("memory"));
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

    use super::with_defaults;

    fn completed(given: Value) -> Value {
        let given = serde_json::from_value(given).expect("resources");
        serde_json::to_value(with_defaults(Some(&given))).expect("JSON")
    }

    #[test]
    fn resources_not_mentioned_get_defaults() {
        let all = json!({ "requests": { "cpu": "50m", "memory": "64Mi" }, "limits": { "memory": "256Mi" } });
        assert_eq!(serde_json::to_value(with_defaults(None)).expect("JSON"), all);
        assert_eq!(completed(json!({})), all);
        assert_eq!(
            completed(json!({ "limits": { "cpu": "1" } })),
            json!({ "requests": { "memory": "64Mi" }, "limits": { "cpu": "1", "memory": "256Mi" } })
        );
    }

    #[test]
    fn defaults_never_contradict_given_resources() {
        let more = json!({ "requests": { "memory": "1Gi" } });
        assert_eq!(completed(more), json!({ "requests": { "cpu": "50m", "memory": "1Gi" } }));
        let less = json!({ "limits": { "memory": "32Mi" } });
        assert_eq!(completed(less), json!({ "requests": { "cpu": "50m" }, "limits": { "memory": "32Mi" } }));
    }
}

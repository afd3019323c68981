//! Which fields of a child are the operator's: all, except those that Kubernetes, other controllers and legitimate
//! actions of users write. The latter survive when the operator replaces a child, and do not count as edits.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value};

/// The field manager of all writes.
pub(crate) const MANAGER: &str = "hedgerow-operator";

/// The prefix of annotations that only this operator writes. Annotations of others are notes of their tools.
const OWN_ANNOTATIONS: &str = "hedgerow.dev/";

/// The fields of others, by kind.
const OF_OTHERS: [(&str, &[&str]); 5] = [
    // Written by `kubectl rollout restart`.
    ("Deployment", &["spec", "template", "metadata", "annotations", "kubectl.kubernetes.io/restartedAt"]),
    // OpenShift lists here the Secrets that it generates for an account, and generates more if they are missing.
    ("ServiceAccount", &["secrets"]),
    ("ServiceAccount", &["imagePullSecrets"]),
    // Set by the admission webhook of a cloud, and immutable.
    ("Service", &["spec", "loadBalancerClass"]),
    // Where a kind has no subresource for its status, replacing an object replaces the status too.
    ("PodMonitor", &["status"]),
];

/// A live child, split by who writes what.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fields {
    /// A hash of the operator's fields.
    pub(crate) fingerprint: u64,
    /// The replica count of a Deployment, which the operator shares with an autoscaler.
    pub(crate) replicas: Option<i32>,
    /// The fields of others: an object that only contains these.
    pub(crate) others: Value,
}

impl Fields {
    /// Splits an object of this kind.
    pub(crate) fn of(kind: &str, mut object: Value) -> Self {
        let mut others = Value::Object(Map::new());
        for (_, path) in OF_OTHERS.iter().filter(|(of, _)| *of == kind) {
            if let Some(value) = take(&mut object, path) {
                set(&mut others, path, value);
            }
        }
        if let Some(finalizers) = take(&mut object, &["metadata", "finalizers"]) {
            set(&mut others, &["metadata", "finalizers"], finalizers);
        }
        let replicas = take(&mut object, &["spec", "replicas"]).filter(|_| kind == "Deployment");
        let replicas = replicas.and_then(|replicas| replicas.as_i64()?.try_into().ok());

        let mut hasher = DefaultHasher::new();
        let metadata = &object["metadata"];
        for (key, value) in metadata["annotations"].as_object().into_iter().flatten() {
            if key.starts_with(OWN_ANNOTATIONS) {
                (key, value.to_string()).hash(&mut hasher);
            } else {
                set(&mut others, &["metadata", "annotations", key.as_str()], value.clone());
            }
        }
        metadata["labels"].to_string().hash(&mut hasher);
        metadata["ownerReferences"].to_string().hash(&mut hasher);
        for (key, value) in object.as_object().into_iter().flatten() {
            // Objects of a list lack their kind.
            if !matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status") {
                (key, value.to_string()).hash(&mut hasher);
            }
        }
        Self { fingerprint: hasher.finish(), replicas, others }
    }

    /// Adds the fields of others to a manifest.
    pub(crate) fn keep_in(&self, manifest: &mut Value) {
        merge(manifest, &self.others);
    }
}

fn take(object: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    let parent = parents.iter().try_fold(object, |value, key| value.get_mut(*key))?;
    parent.as_object_mut()?.remove(*last)
}

fn set(object: &mut Value, path: &[&str], value: Value) {
    *path.iter().fold(object, |value, key| &mut value[*key]) = value;
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment() -> Value {
        json!({
            "kind": "Deployment",
            "metadata": {
                "name": "a", "labels": { "x": "1" }, "annotations": { "hedgerow.dev/y": "2" }, "resourceVersion": "7",
            },
            "spec": {
                "replicas": 2, "paused": false, "template": { "metadata": { "annotations": { "z": "3" } } },
            },
            "status": { "replicas": 1 },
        })
    }

    fn is_edit(pointer: &str, value: Value) -> bool {
        let mut after = deployment();
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
        after.pointer_mut(parent).expect("a parent")[field.replace("~1", "/")] = value;
        Fields::of("Deployment", deployment()).fingerprint != Fields::of("Deployment", after).fingerprint
    }

    #[test]
    fn what_others_may_write_is_no_edit() {
        assert!(is_edit("/spec/paused", true.into()));
        assert!(is_edit("/spec/template/metadata/annotations/z", "4".into()));
        assert!(is_edit("/spec/template/metadata/annotations/other", "4".into()));
        assert!(is_edit("/metadata/labels/x", "3".into()));
        assert!(is_edit("/metadata/labels/other", "3".into()));
        assert!(is_edit("/metadata/annotations/hedgerow.dev~1route", "{}".into()));
        assert!(is_edit("/metadata/ownerReferences", json!([{ "uid": "u" }])));
        assert!(!is_edit("/spec/replicas", 5.into()), "checked against its range");
        assert!(!is_edit("/spec/template/metadata/annotations/kubectl.kubernetes.io~1restartedAt", "now".into()));
        assert!(!is_edit("/status/replicas", 5.into()));
        assert!(!is_edit("/metadata/resourceVersion", "8".into()));
        assert!(!is_edit("/metadata/finalizers", json!(["theirs"])));
        assert!(!is_edit("/metadata/annotations/deployment.kubernetes.io~1revision", "2".into()));
    }

    #[test]
    fn a_manifest_keeps_only_the_fields_of_others() {
        let mut live = deployment();
        live["metadata"]["annotations"] =
            json!({ "hedgerow.dev/route": "{}", "deployment.kubernetes.io/revision": "4" });
        live["metadata"]["finalizers"] = json!(["theirs"]);
        live["spec"]["paused"] = true.into();
        live["spec"]["template"]["metadata"]["annotations"] =
            json!({ "kubectl.kubernetes.io/restartedAt": "now", "theirs": "5" });
        let fields = Fields::of("Deployment", live);
        assert_eq!(fields.replicas, Some(2));
        let mut manifest = json!({ "metadata": { "name": "a" }, "spec": { "template": { "spec": {} } } });
        fields.keep_in(&mut manifest);
        let annotations = json!({ "deployment.kubernetes.io/revision": "4" });
        let template =
            json!({ "metadata": { "annotations": { "kubectl.kubernetes.io/restartedAt": "now" } }, "spec": {} });
        assert_eq!(
            manifest,
            json!({
                "metadata": { "name": "a", "annotations": annotations, "finalizers": ["theirs"] },
                "spec": { "template": template },
            })
        );
    }
}

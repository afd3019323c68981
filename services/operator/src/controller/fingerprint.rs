//! Fingerprints of children, to detect edits.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;

/// Hashes everything that someone might edit, but neither the status nor what other controllers write.
pub(crate) fn fingerprint(object: &Value) -> u64 {
    let metadata = &object["metadata"];
    let annotations = metadata["annotations"].as_object().into_iter().flatten();
    let annotations = annotations.filter(|(key, _)| !key.starts_with("deployment.kubernetes.io/"));
    let mut hasher = DefaultHasher::new();
    for (key, value) in annotations {
        (key, value.to_string()).hash(&mut hasher);
    }
    metadata["labels"].to_string().hash(&mut hasher);
    metadata["ownerReferences"].to_string().hash(&mut hasher);
    for (key, value) in object.as_object().into_iter().flatten() {
        match key.as_str() {
            // Objects of a list lack their kind.
            "apiVersion" | "kind" | "metadata" | "status" => {}
            // The replica count is written separately, by the autoscaler or by `Children::scale`.
            "spec" => {
                for (key, value) in value.as_object().into_iter().flatten().filter(|(key, _)| *key != "replicas") {
                    (key, value.to_string()).hash(&mut hasher);
                }
            }
            _ => (key, value.to_string()).hash(&mut hasher),
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(pointer: &str, value: Value) -> bool {
        let before = serde_json::json!({
            "kind": "Deployment",
            "metadata": { "name": "a", "labels": { "x": "1" }, "annotations": { "y": "2" }, "resourceVersion": "7" },
            "spec": { "replicas": 2, "paused": false },
            "status": { "replicas": 1 },
        });
        let mut after = before.clone();
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
        after.pointer_mut(parent).expect("a parent")[field.replace("~1", "/")] = value;
        fingerprint(&before) != fingerprint(&after)
    }

    #[test]
    fn a_fingerprint_ignores_what_controllers_write() {
        assert!(changes("/spec/paused", true.into()));
        assert!(changes("/metadata/labels/x", "3".into()));
        assert!(changes("/metadata/annotations/z", "3".into()));
        assert!(changes("/metadata/ownerReferences", serde_json::json!([{ "uid": "u" }])));
        assert!(!changes("/spec/replicas", 5.into()), "written by the autoscaler");
        assert!(!changes("/status/replicas", 5.into()));
        assert!(!changes("/metadata/resourceVersion", "8".into()));
        assert!(!changes("/metadata/annotations/deployment.kubernetes.io~1revision", "2".into()));
    }
}

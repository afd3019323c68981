//! The metadata of children, and the labels that select pods.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};

use api::Microservice;

/// Selects the objects that this operator creates.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by=hedgerow-operator";

/// The component label of the pods that serve. Pods that migrate have another.
pub const SERVICE: &str = "service";

/// The labels that select the pods of a component of the object `name`. A selector is immutable, so it only has labels
/// that never change.
pub(super) fn selector(name: &str, component: &str) -> BTreeMap<String, String> {
    [("name", name), ("instance", name), ("component", component)]
        .map(|(key, value)| (format!("app.kubernetes.io/{key}"), value.to_owned()))
        .into()
}

/// Selects the pods that serve.
pub(super) fn pods(object: &Microservice) -> LabelSelector {
    LabelSelector { match_labels: Some(selector(&object.name_any(), SERVICE)), ..LabelSelector::default() }
}

/// Selects the pods that serve and those that migrate.
pub(super) fn all_pods(object: &Microservice) -> LabelSelector {
    let mut labels = selector(&object.name_any(), SERVICE);
    labels.remove("app.kubernetes.io/component");
    LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }
}

/// Selects the pods of every object that serve.
pub(super) fn services() -> BTreeMap<String, String> {
    [("part-of", "hedgerow"), ("managed-by", "hedgerow-operator"), ("component", SERVICE)]
        .map(|(key, value)| (format!("app.kubernetes.io/{key}"), value.to_owned()))
        .into()
}

/// The labels of a child.
#[must_use]
pub fn labels(object: &Microservice, component: &str) -> BTreeMap<String, String> {
    let mut labels = selector(&object.name_any(), component);
    labels.insert("app.kubernetes.io/part-of".to_owned(), "hedgerow".to_owned());
    labels.insert("app.kubernetes.io/managed-by".to_owned(), "hedgerow-operator".to_owned());
    labels
}

/// The labels of a pod: the labels of a child, and those for network policies and people.
pub(super) fn pod(object: &Microservice, component: &str) -> BTreeMap<String, String> {
    let mut labels = labels(object, component);
    if let Some(version) = version(&object.spec.image) {
        labels.insert("app.kubernetes.io/version".to_owned(), version);
    }
    if object.spec.database.is_some() {
        // The network policy of the bundled Postgres admits pods with this label.
        labels.insert(api::labels::DATABASE.to_owned(), "true".to_owned());
    }
    labels
}

/// The metadata of a child. Its owner is set if `object` is stored.
pub(super) fn metadata(object: &Microservice, name: String, component: &str) -> ObjectMeta {
    // A foreground deletion of the owner waits for its children.
    let owner = object.controller_owner_ref(&());
    let owner = owner.map(|owner| OwnerReference { block_owner_deletion: Some(true), ..owner });
    ObjectMeta {
        name: Some(name),
        namespace: object.namespace(),
        labels: Some(labels(object, component)),
        owner_references: owner.map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// The tag of an image, if it is a valid label value. A digest is not: it contains a colon.
fn version(image: &str) -> Option<String> {
    let image = image.split_once('@').map_or(image, |(name, _)| name);
    let (_, tag) = image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'))?;
    let ends = |end: char| end.is_ascii_alphanumeric();
    (tag.len() <= 63 && tag.starts_with(ends) && tag.ends_with(ends)).then(|| tag.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_label_is_the_image_tag() {
        assert_eq!(version("localhost:5000/orders:1.2"), Some("1.2".to_owned()));
        assert_eq!(version("localhost:5000/orders:1.2@sha256:00ff"), Some("1.2".to_owned()));
        assert_eq!(version("localhost:5000/orders@sha256:00ff"), None);
        assert_eq!(version("orders:x-"), None, "a label value must not end with a dash");
        assert_eq!(version("orders:_x"), None, "a label value must not start with an underscore");
    }
}

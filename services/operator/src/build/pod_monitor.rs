//! How the Prometheus operator finds a service's pods.

use std::collections::BTreeMap;

use kube::{
    ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::json;

use super::{SERVICE, labels, metadata};
use api::Microservice;

/// The kind, which a cluster may lack.
#[must_use]
pub fn resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("monitoring.coreos.com", "v1", "PodMonitor"))
}

/// With `more` labels: a Prometheus may be told to look for some.
pub(super) fn build(object: &Microservice, more: &BTreeMap<String, String>) -> DynamicObject {
    let mut monitor = DynamicObject::new(&object.name_any(), &resource());
    monitor.metadata = metadata(object, object.name_any(), SERVICE);
    monitor.labels_mut().extend(more.clone());
    monitor.data = json!({ "spec": {
        "jobLabel": "app.kubernetes.io/name",
        "selector": labels::pods(object),
        "podMetricsEndpoints": [{ "port": "admin", "path": "/metrics" }],
    } });
    monitor
}

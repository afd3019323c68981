//! How the Prometheus operator finds the pods of a service.

use std::collections::BTreeMap;

use kube::{
    ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::json;

use super::labels::{self, SERVICE, metadata};
use api::Microservice;

/// The kind, which a cluster may not have.
#[must_use]
pub fn resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("monitoring.coreos.com", "v1", "PodMonitor"))
}

/// The `PodMonitor` with `extra` labels, which a Prometheus may select by.
pub(super) fn build(object: &Microservice, extra: &BTreeMap<String, String>) -> DynamicObject {
    let mut monitor = DynamicObject::new(&object.name_any(), &resource());
    monitor.metadata = metadata(object, object.name_any(), SERVICE);
    monitor.labels_mut().extend(extra.clone());
    monitor.data = json!({ "spec": {
        "jobLabel": "app.kubernetes.io/name",
        "selector": labels::pods(object),
        "podMetricsEndpoints": [{ "port": "admin", "path": "/metrics" }],
    } });
    monitor
}

//! One pod at a time may be evicted.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::ResourceExt;

use super::{SERVICE, labels, metadata};
use api::Microservice;

pub(super) fn build(object: &Microservice) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(object, object.name_any(), SERVICE),
        spec: Some(PodDisruptionBudgetSpec {
            selector: Some(labels::pods(object)),
            max_unavailable: Some(IntOrString::Int(1)),
            // A pod that does not work must not keep a node from being drained.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}

//! How many pods there are: the autoscaler, and the disruption budget.

use k8s_openapi::{
    api::{
        autoscaling::v2::{
            CrossVersionObjectReference, HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerBehavior,
            HorizontalPodAutoscalerSpec, MetricSpec, MetricTarget, ResourceMetricSource,
        },
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::ResourceExt;

use super::labels::{self, SERVICE, metadata};
use api::Microservice;

/// Scales by CPU utilization.
pub(super) fn autoscaler(object: &Microservice) -> HorizontalPodAutoscaler {
    let scaling = &object.spec.scaling;
    let cpu = ResourceMetricSource {
        name: "cpu".to_owned(),
        target: MetricTarget {
            type_: "Utilization".to_owned(),
            average_utilization: Some(scaling.cpu),
            ..MetricTarget::default()
        },
    };
    let scale_down = HPAScalingRules {
        stabilization_window_seconds: Some(scaling.scale_down_seconds),
        ..HPAScalingRules::default()
    };
    HorizontalPodAutoscaler {
        metadata: metadata(object, object.name_any(), SERVICE),
        spec: Some(HorizontalPodAutoscalerSpec {
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some("apps/v1".to_owned()),
                kind: "Deployment".to_owned(),
                name: object.name_any(),
            },
            min_replicas: Some(scaling.min),
            max_replicas: scaling.max,
            metrics: Some(vec![MetricSpec {
                type_: "Resource".to_owned(),
                resource: Some(cpu),
                ..MetricSpec::default()
            }]),
            behavior: Some(HorizontalPodAutoscalerBehavior { scale_down: Some(scale_down), scale_up: None }),
        }),
        status: None,
    }
}

/// Lets one pod at a time be evicted, however many run. A single pod can be evicted too.
pub(super) fn disruption_budget(object: &Microservice) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(object, object.name_any(), SERVICE),
        spec: Some(PodDisruptionBudgetSpec {
            selector: Some(labels::pods(object)),
            max_unavailable: Some(IntOrString::Int(1)),
            // An unhealthy pod must not block the drain of a node.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}

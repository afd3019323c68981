//! The autoscaler, by CPU.

use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HPAScalingRules, HorizontalPodAutoscaler, HorizontalPodAutoscalerBehavior,
    HorizontalPodAutoscalerSpec, MetricSpec, MetricTarget, ResourceMetricSource,
};
use kube::ResourceExt;

use super::{SERVICE, metadata};
use api::Microservice;

pub(super) fn build(object: &Microservice) -> HorizontalPodAutoscaler {
    let scaling = &object.spec.scaling;
    let cpu = ResourceMetricSource {
        name: "cpu".to_owned(),
        target: MetricTarget {
            type_: "Utilization".to_owned(),
            average_utilization: Some(scaling.cpu),
            ..MetricTarget::default()
        },
    };
    let slowly = HPAScalingRules {
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
            behavior: Some(HorizontalPodAutoscalerBehavior { scale_down: Some(slowly), scale_up: None }),
        }),
        status: None,
    }
}

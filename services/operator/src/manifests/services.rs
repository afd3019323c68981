//! The Service, and a headless one for clients that balance connections themselves, such as gRPC clients.
//!
//! Both use the port numbers of the pods, because a headless Service cannot translate ports. Neither has the admin
//! port: metrics belong to a pod, so Prometheus scrapes each pod.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use kube::ResourceExt;

use super::{
    authentication,
    inputs::RenderInputs,
    labels::{self, SERVICE, metadata},
    names,
};
use api::{Microservice, RouteAnnotation, ServiceType, annotations};

pub(super) fn build(object: &Microservice, inputs: &RenderInputs) -> [Service; 2] {
    let name = object.name_any();
    let kind = match object.spec.service.kind {
        _ if authentication::is_exposed(object, inputs) => "ClusterIP",
        ServiceType::ClusterIP => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
    };
    let spec = ServiceSpec {
        selector: Some(labels::selector(&name, SERVICE)),
        ports: Some(ports(object)),
        ..ServiceSpec::default()
    };
    let headless = ServiceSpec { cluster_ip: Some("None".to_owned()), ..spec.clone() };
    let annotations = route(object, inputs);
    let metadata_of = |name, annotations| ObjectMeta { annotations, ..metadata(object, name, SERVICE) };
    [
        Service {
            metadata: metadata_of(name.clone(), annotations),
            spec: Some(ServiceSpec { type_: Some(kind.to_owned()), ..spec }),
            status: None,
        },
        Service { metadata: metadata_of(names::headless(&name), None), spec: Some(headless), status: None },
    ]
}

/// The annotation that the gateway reads.
fn route(object: &Microservice, inputs: &RenderInputs) -> Option<BTreeMap<String, String>> {
    let route = object.spec.route.as_ref().filter(|_| !inputs.accepted_paths.is_empty())?;
    let route = RouteAnnotation {
        grpc: route.grpc,
        paths: inputs.accepted_paths.clone(),
        idempotency_keys: route.idempotency_keys.clone(),
        auth: route.auth.clone(),
    };
    Some([(annotations::ROUTE.to_owned(), serde_json::json!(route).to_string())].into())
}

fn ports(object: &Microservice) -> Vec<ServicePort> {
    let port = |name: &str, number: u16, protocol: &str| ServicePort {
        name: Some(name.to_owned()),
        port: number.into(),
        target_port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        app_protocol: Some(protocol.to_owned()),
        ..ServicePort::default()
    };
    let ports = &object.spec.ports;
    let grpc = ports.grpc.map(|number| port("grpc", number, "kubernetes.io/h2c"));
    std::iter::once(port("http", ports.http, "http")).chain(grpc).collect()
}

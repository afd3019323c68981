//! The gRPC server of a service: its own APIs, health and reflection.

use std::collections::HashMap;

use axum::Router;
use prometheus::Registry;
use prost::Message;
use prost_types::{FileDescriptorSet, MethodDescriptorProto, MethodOptions, method_options::IdempotencyLevel};
use tonic::service::{Routes, RoutesBuilder};
use tonic_health::{
    ServingStatus,
    server::{HealthReporter, health_reporter},
};
use tonic_reflection::server::Builder;

use super::{
    call::Method,
    metrics::ServerMetrics,
    observe::{self, COMMON, KnownMethod},
};
use crate::{authenticate::Authenticator, database::Health, refusals::Refusals, unsent::Unsent};

/// The gRPC APIs of a service.
pub struct Grpc<S> {
    /// Creates the servers.
    pub routes: fn(S) -> Routes,
    /// The descriptors of their APIs, as an encoded `google.protobuf.FileDescriptorSet`.
    pub descriptors: &'static [u8],
}

/// Builds everything that the gRPC port serves. A background task keeps its health in line with the readiness.
///
/// # Errors
/// Returns an error if the descriptors are invalid or two metrics share a name, which is a bug.
pub(crate) fn app<S>(
    grpc: &Grpc<S>,
    state: S,
    health: Health,
    registry: &Registry,
    authenticator: Authenticator,
    refusals: Refusals,
    unsent: Unsent,
) -> anyhow::Result<Router> {
    let (reporter, health_server) = health_reporter();
    let reflection = || {
        let shown = Builder::configure().register_encoded_file_descriptor_set(grpc.descriptors);
        let shown = shown.register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        // The details of statuses.
        shown.register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let mut routes = RoutesBuilder::from((grpc.routes)(state));
    routes.add_service(health_server);
    // Older clients use the alpha version.
    routes.add_service(reflection().build_v1()?).add_service(reflection().build_v1alpha()?);

    let own = methods(grpc.descriptors)?;
    let mut names: Vec<String> = own.values().map(|known| known.method.service.to_string()).collect();
    names.dedup();
    tokio::spawn(follow(health, reporter, names));
    let mut known = own;
    for common in [
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ] {
        known.extend(methods(common)?);
    }
    let routes = routes.routes().into_axum_router();
    Ok(observe::layer(routes, ServerMetrics::new(registry)?, authenticator, refusals, unsent, known))
}

/// Keeps `grpc.health.v1.Health` in line with the readiness, for the server as a whole and for each of its APIs.
async fn follow(mut health: Health, reporter: HealthReporter, names: Vec<String>) {
    loop {
        let ready = health.ready().is_ok();
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in names.iter().map(String::as_str).chain([""]) {
            reporter.set_service_status(name, status).await;
        }
        health.changed().await;
    }
}

/// Returns the methods in an encoded set of descriptors, by their paths.
fn methods(descriptors: &[u8]) -> Result<HashMap<String, KnownMethod>, prost::DecodeError> {
    let mut methods = HashMap::new();
    for file in FileDescriptorSet::decode(descriptors)?.file {
        for service in &file.service {
            let service_name = format!("{}.{}", file.package(), service.name());
            for method in &service.method {
                let path = format!("/{service_name}/{}", method.name());
                let is_read = is_read(&service_name, method);
                methods.insert(path, KnownMethod { method: Method::new(&service_name, method.name()), is_read });
            }
        }
    }
    Ok(methods)
}

/// Whether a call changes nothing: the method says so, or is one that every server has.
fn is_read(service: &str, method: &MethodDescriptorProto) -> bool {
    let level = method.options.as_ref().map(MethodOptions::idempotency_level);
    level == Some(IdempotencyLevel::NoSideEffects) || service.starts_with(COMMON)
}

//! The few facts that are kept of each Service and `EndpointSlice`, since there may be thousands of them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use api::{RouteAnnotation, annotations};
use k8s_openapi::api::{
    core,
    discovery::v1::{Endpoint, EndpointConditions, EndpointSlice},
};
use kube::{Resource, ResourceExt, core::PartialObjectMeta};

use super::super::prefix::normalize;
use crate::auth::Access;

/// The label that names the Service of a slice.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A Service. Only its metadata is requested, because only its annotations matter.
pub(super) type ServiceMeta = PartialObjectMeta<core::v1::Service>;

/// A Service with a route annotation.
#[derive(Debug, PartialEq)]
pub(super) struct Claim {
    /// When the Service was created, in seconds since the epoch.
    pub(super) created: Option<i64>,
    /// The route, or why the annotation is malformed.
    pub(super) route: Result<RouteAnnotation, String>,
    /// Which requests are let in.
    pub(super) access: Arc<Access>,
}

/// Some of the endpoints of a Service.
#[derive(Debug, PartialEq)]
pub(super) struct Slice {
    pub(super) service: String,
    pub(super) http: Vec<(SocketAddr, State)>,
    pub(super) grpc: Vec<(SocketAddr, State)>,
}

/// The state of an endpoint that serves. Two slices may contain the same endpoint for a moment, while the cluster
/// redistributes endpoints; then the greater state counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// Terminating, and still serving.
    Terminating,
    /// Ready for requests.
    Ready,
}

/// The claim of a Service; `None` if it has no route annotation.
pub(super) fn claim(service: &ServiceMeta) -> Option<Claim> {
    let annotation = service.annotations().get(annotations::ROUTE)?;
    let created = service.meta().creation_timestamp.as_ref().map(|time| time.0.as_second());
    let route = parse_route(annotation);
    let access = Access::new(route.as_ref().ok().and_then(|route| route.auth.as_ref()));
    Some(Claim { created, route, access: Arc::new(access) })
}

fn parse_route(annotation: &str) -> Result<RouteAnnotation, String> {
    let mut route: RouteAnnotation = serde_json::from_str(annotation).map_err(|error| error.to_string())?;
    let path = |path: &String| normalize(path).ok_or_else(|| format!("invalid path {path:?}"));
    route.paths = route.paths.iter().map(path).collect::<Result<_, _>>()?;
    route.idempotency_keys = route.idempotency_keys.iter().map(path).collect::<Result<_, _>>()?;
    route.paths.sort_unstable();
    route.paths.dedup();
    if route.paths.is_empty() { Err("paths is empty".to_owned()) } else { Ok(route) }
}

/// The serving endpoints of a slice; `None` if the slice belongs to no Service.
pub(super) fn slice(slice: &EndpointSlice) -> Option<Slice> {
    let service = slice.labels().get(SERVICE_NAME)?.clone();
    let port = |name: &str| {
        let ports = slice.ports.iter().flatten();
        let mut ports = ports.filter(|port| port.name.as_deref() == Some(name)).filter_map(|port| port.port);
        ports.next().and_then(|port| u16::try_from(port).ok())
    };
    let serving: Vec<(IpAddr, State)> = slice.endpoints.iter().filter_map(serving).collect();
    let on_port = |port: u16| serving.iter().map(move |(ip, state)| (SocketAddr::new(*ip, port), *state));
    let endpoints = |name: &str| port(name).into_iter().flat_map(on_port).collect();
    Some(Slice { service, http: endpoints("http"), grpc: endpoints("grpc") })
}

/// The address and state of an endpoint; `None` if it does not serve. An endpoint's addresses are interchangeable, so
/// the first is used.
fn serving(endpoint: &Endpoint) -> Option<(IpAddr, State)> {
    let EndpointConditions { ready, serving, terminating } = endpoint.conditions.clone().unwrap_or_default();
    let state = if ready.unwrap_or(true) {
        State::Ready
    } else if terminating == Some(true) && serving.unwrap_or(true) {
        State::Terminating
    } else {
        return None;
    };
    // Slices of the address type FQDN have names instead of addresses; they are skipped.
    Some((endpoint.addresses.first()?.parse().ok()?, state))
}

//! What of an object is kept: little, since there may be thousands.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use kube::{Resource, ResourceExt};
use serde::Deserialize;

use super::{super::path::normalized, Service};

/// Where the operator, or anyone, writes which paths are a Service's: `{"paths": ["/orders"], "grpc": false}`.
const ROUTE: &str = "hedgerow.dev/route";
/// The label by which a slice says whose it is.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A Service that asks for a route.
#[derive(Debug, PartialEq)]
pub(super) struct Claim {
    /// When the Service was made, in seconds.
    pub(super) since: Option<i64>,
    /// What it asks for, or why that is not understood.
    pub(super) route: Result<Route, String>,
}

/// What a Service asks for. What else the annotation says is of no concern to this version.
#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct Route {
    pub(super) paths: Vec<String>,
    #[serde(default)]
    pub(super) grpc: bool,
}

/// Some of the endpoints of a Service.
#[derive(Debug, PartialEq)]
pub(super) struct Slice {
    pub(super) service: String,
    pub(super) http: Vec<(SocketAddr, State)>,
    pub(super) grpc: Vec<(SocketAddr, State)>,
}

/// The state of an endpoint that serves. Where two slices have the same, as they do for a moment while the cluster
/// distributes endpoints anew, the better one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// It ends, and still serves.
    Ending,
    /// It is to be sent requests.
    Ready,
}

/// What a Service claims; `None` where it wants no route.
pub(super) fn claim(service: &Service) -> Option<Claim> {
    let text = service.annotations().get(ROUTE)?;
    let since = service.meta().creation_timestamp.as_ref().map(|time| time.0.as_second());
    Some(Claim { since, route: route(text) })
}

fn route(text: &str) -> Result<Route, String> {
    let mut route: Route = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let path = |path: &String| normalized(path).ok_or_else(|| format!("{path:?} is no path"));
    route.paths = route.paths.iter().map(path).collect::<Result<_, _>>()?;
    route.paths.sort_unstable();
    route.paths.dedup();
    if route.paths.is_empty() { Err("it has no paths".to_owned()) } else { Ok(route) }
}

/// The endpoints of a slice that serve; `None` where it is no Service's.
pub(super) fn slice(slice: &EndpointSlice) -> Option<Slice> {
    let service = slice.labels().get(SERVICE_NAME)?.clone();
    let port = |name: &str| {
        let ports = slice.ports.iter().flatten();
        let mut ports = ports.filter(|port| port.name.as_deref() == Some(name)).filter_map(|port| port.port);
        ports.next().and_then(|port| u16::try_from(port).ok())
    };
    let serving: Vec<(IpAddr, State)> = slice.endpoints.iter().filter_map(serving).collect();
    let all = |port: u16| serving.iter().map(move |(ip, state)| (SocketAddr::new(*ip, port), *state));
    let on = |name: &str| port(name).into_iter().flat_map(all).collect();
    Some(Slice { service, http: on("http"), grpc: on("grpc") })
}

/// An endpoint's address, where it serves. Its further addresses, if any, lead to the same place.
fn serving(endpoint: &Endpoint) -> Option<(IpAddr, State)> {
    let EndpointConditions { ready, serving, terminating } = endpoint.conditions.clone().unwrap_or_default();
    let state = if ready.unwrap_or(true) {
        State::Ready
    } else if terminating == Some(true) && serving.unwrap_or(true) {
        State::Ending
    } else {
        return None;
    };
    // A slice of names (`FQDN`) has no addresses.
    Some((endpoint.addresses.first()?.parse().ok()?, state))
}

//! The list of services that discovery publishes to the rest of the gateway.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::watch;

/// A service that has a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    /// The name, which is also the `service` label of metrics.
    pub(crate) name: String,
    /// The path prefixes routed to the service, such as `/users`. No two services share a prefix.
    pub(crate) paths: Vec<String>,
    /// The endpoints that serve HTTP: the ready ones or, if none is ready, those that still serve while they terminate.
    pub(crate) http: Vec<SocketAddr>,
    /// The endpoints that serve gRPC; `None` if the service's route is for HTTP only.
    pub(crate) grpc: Option<Vec<SocketAddr>>,
}

/// All services that have a route, sorted by name. Each change publishes a new list.
pub(crate) type Services = watch::Receiver<Arc<[Service]>>;

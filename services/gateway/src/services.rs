//! The services behind the gateway, as discovery sees them: the one thing that it tells everything else.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::watch;

/// A service that has a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    /// Its name: a label of metrics.
    pub(crate) name: String,
    /// The path prefixes that are its own, such as `/users`; each is given to one service only.
    pub(crate) paths: Vec<String>,
    /// Where it serves HTTP now: the ready endpoints, or where there are none those that still serve while they end.
    pub(crate) http: Vec<SocketAddr>,
    /// Where it serves gRPC now, where its route says that gRPC requests (`content-type: application/grpc`) go there.
    pub(crate) grpc: Option<Vec<SocketAddr>>,
}

/// All services that have a route, sorted by name; each change is a new value.
pub(crate) type Services = watch::Receiver<Arc<[Service]>>;

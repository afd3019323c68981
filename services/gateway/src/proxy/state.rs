//! The state that all exchanges share.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use http::StatusCode;
use runtime::{Lifecycle, Problem};
use tokio_util::task::TaskTracker;

use super::{in_flight::InFlight, route_table::RouteTable};
use crate::{
    access_log::AccessLog,
    auth::Authenticator,
    discovery::Services,
    metrics::{Metrics, RouteMetrics},
    openapi::ApiDocs,
    policy::Policy,
};

/// Everything a proxy depends on.
pub(crate) struct ProxyDeps {
    pub(crate) limits: Limits,
    pub(crate) policy: Policy,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) services: Services,
    pub(crate) metrics: Metrics,
    pub(crate) access_log: Option<AccessLog>,
    /// The number of threads that serve connections.
    pub(crate) workers: usize,
    pub(crate) lifecycle: Lifecycle,
    /// The tasks that shutdown waits for.
    pub(crate) tasks: TaskTracker,
}

/// Limits on the requests that are passed on. `cli` has the flags that set them.
pub(crate) struct Limits {
    pub(crate) timeouts: Timeouts,
    pub(crate) max_in_flight: u32,
    pub(crate) max_in_flight_per_client: u32,
    pub(crate) max_tunnels: u32,
    pub(crate) max_tunnels_per_client: u32,
    pub(crate) body_limit: u64,
}

#[derive(Clone, Copy)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    pub(crate) header: Duration,
    pub(crate) total: Duration,
}

/// The state that all exchanges share.
pub(super) struct Proxy {
    pub(super) routes: Arc<ArcSwap<RouteTable>>,
    pub(super) policy: Policy,
    pub(super) authenticator: Arc<Authenticator>,
    pub(super) api_docs: ApiDocs,
    /// For requests that match no route.
    pub(super) unmatched: RouteMetrics,
    pub(super) access_log: Option<AccessLog>,
    pub(super) timeouts: Timeouts,
    pub(super) in_flight: InFlight,
    body_limit: u64,
    started: Instant,
    pub(super) lifecycle: Lifecycle,
    pub(super) tunnels: TaskTracker,
}

impl Proxy {
    pub(super) fn new(deps: ProxyDeps, routes: Arc<ArcSwap<RouteTable>>) -> Self {
        let ProxyDeps { limits, policy, authenticator, services, metrics, access_log, lifecycle, tasks, .. } = deps;
        Self {
            routes,
            policy,
            api_docs: ApiDocs::new(services, authenticator.clone()),
            authenticator,
            unmatched: metrics.route("", "unmatched"),
            in_flight: InFlight::new(metrics.in_flight.clone(), metrics.shed.clone(), &limits),
            access_log,
            timeouts: limits.timeouts,
            body_limit: limits.body_limit,
            started: Instant::now(),
            lifecycle,
            tunnels: tasks,
        }
    }

    /// The time since the proxy started.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The maximum size of a request body, in bytes.
    pub(super) fn body_limit(&self, is_grpc: bool) -> u64 {
        if is_grpc { u64::MAX } else { self.body_limit }
    }

    pub(super) fn body_too_large(&self) -> Problem {
        let detail = format!("the request body is larger than the limit of {} bytes", self.body_limit);
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    }
}

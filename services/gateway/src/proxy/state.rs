//! The proxy's settings, and the state that all exchanges share.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use clap::Args;
use http::StatusCode;
use runtime::{Lifecycle, Problem};
use tokio_util::task::TaskTracker;

use super::routes::RouteTable;
use crate::{
    access_log::AccessLog,
    metrics::{Metrics, RouteMetrics},
    openapi::ApiDocs,
    policy::Policy,
    services::Services,
};

/// Limits on the requests that are passed on.
#[derive(Debug, Clone, Args)]
pub(crate) struct ProxyArgs {
    /// Timeout for connecting to an endpoint
    #[arg(long, env, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    pub(super) connect_timeout: Duration,
    /// How long to wait for response headers once a request has been sent, and for a client to send more of its body.
    /// Keep it longer than the services' own request timeout (15 s)
    #[arg(long, env, value_name = "TIME", default_value = "20s", value_parser = humantime::parse_duration)]
    pub(super) header_timeout: Duration,
    /// Timeout for a request as a whole, including retries and the response body. gRPC, server-sent events and
    /// WebSocket connections are exempt
    #[arg(long, env, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    pub(super) total_timeout: Duration,
    /// Maximum number of concurrent requests; any more are refused with 503
    #[arg(long, env, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    max_in_flight: u32,
    /// Maximum size of a request body, in bytes. Services have limits of their own, and gRPC is exempt
    #[arg(long, env, value_name = "BYTES", default_value_t = 1024 * 1024)]
    body_limit: u64,
}

/// Everything a proxy depends on.
pub(crate) struct ProxyDeps {
    pub(crate) policy: Policy,
    pub(crate) services: Services,
    pub(crate) metrics: Metrics,
    pub(crate) access_log: Option<AccessLog>,
    /// The number of threads that serve connections.
    pub(crate) workers: usize,
    pub(crate) lifecycle: Lifecycle,
    /// The tasks that shutdown waits for.
    pub(crate) tasks: TaskTracker,
}

#[derive(Clone, Copy)]
pub(super) struct Timeouts {
    pub(super) connect: Duration,
    pub(super) header: Duration,
    pub(super) total: Duration,
}

/// The state that all exchanges share.
pub(super) struct Proxy {
    pub(super) routes: Arc<ArcSwap<RouteTable>>,
    pub(super) policy: Policy,
    pub(super) api_docs: ApiDocs,
    pub(super) metrics: Metrics,
    /// For requests that match no route.
    pub(super) unmatched: RouteMetrics,
    pub(super) access_log: Option<AccessLog>,
    pub(super) timeouts: Timeouts,
    max_in_flight: i64,
    body_limit: u64,
    started: Instant,
    pub(super) lifecycle: Lifecycle,
    pub(super) tunnels: TaskTracker,
}

impl Proxy {
    pub(super) fn new(args: &ProxyArgs, deps: ProxyDeps, routes: Arc<ArcSwap<RouteTable>>) -> Self {
        let ProxyDeps { policy, services, metrics, access_log, lifecycle, tasks, .. } = deps;
        Self {
            routes,
            policy,
            api_docs: ApiDocs::new(services),
            unmatched: metrics.route("", "unmatched"),
            metrics,
            access_log,
            timeouts: Timeouts {
                connect: args.connect_timeout,
                header: args.header_timeout,
                total: args.total_timeout,
            },
            max_in_flight: args.max_in_flight.into(),
            body_limit: args.body_limit,
            started: Instant::now(),
            lifecycle,
            tunnels: tasks,
        }
    }

    /// The time since the proxy started.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Sheds load while too many requests are in flight.
    pub(super) fn check_load(&self) -> Result<(), Problem> {
        if self.metrics.in_flight.get() <= self.max_in_flight {
            return Ok(());
        }
        self.metrics.shed.inc();
        Err(Problem::unavailable("too many requests are in flight; try again in a moment"))
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

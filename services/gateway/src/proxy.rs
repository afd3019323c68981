//! Sends each request to an endpoint of the service that its path belongs to, and the answer back.

mod answer;
mod budget;
mod endpoint;
mod failure;
mod forward;
mod health;
mod host;
mod http1;
mod http2;
mod outgoing;
mod record;
mod table;
mod target;
mod tunnel;
mod updates;
mod upstream;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use clap::Args;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use http_body::Body as _;
use hyper::upgrade::OnUpgrade;
use runtime::{
    Lifecycle, Problem,
    request::{REQUEST_ID, request_id},
    server::{App, Peer, RequestBody},
};
use tokio_util::task::TaskTracker;

use crate::{
    access_log::AccessLog,
    metrics::{Metrics, RouteMetrics},
    openapi::ApiDocs,
    policy::{self, Client, Policy, Quota},
    services::Services,
};
use answer::Answer;
use forward::{Call, Reply, may_repeat};
use outgoing::Source;
use record::{Record, Recorded};
use table::Table;
use tunnel::Tunnel;
use updates::Updates;

/// How requests are passed on.
#[derive(Debug, Clone, Args)]
pub(crate) struct ProxyArgs {
    /// How long a connection to an endpoint may take to be made
    #[arg(long, env, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    connect_timeout: Duration,
    /// How long an endpoint may take to begin its answer once it has the request, and a client to send more of that;
    /// longer than services take for a request (15 s)
    #[arg(long, env, value_name = "TIME", default_value = "20s", value_parser = humantime::parse_duration)]
    header_timeout: Duration,
    /// How long a request may take in all, retries and the whole answer included, but for gRPC, events and tunnels
    #[arg(long, env, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    total_timeout: Duration,
    /// Most requests in flight; those beyond are refused with 503
    #[arg(long, env, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    max_in_flight: u32,
    /// Longest body of a request, in bytes; services have limits of their own. Messages of gRPC are not limited here
    #[arg(long, env, value_name = "BYTES", default_value_t = 1024 * 1024)]
    body_limit: u64,
}

/// Time limits.
struct Times {
    connect: Duration,
    header: Duration,
    total: Duration,
}

/// What all requests share.
pub(crate) struct Proxy {
    table: Arc<ArcSwap<Table>>,
    policy: Policy,
    api_docs: ApiDocs,
    metrics: Metrics,
    /// Of requests whose path is nobody's.
    unmatched: RouteMetrics,
    access_log: Option<AccessLog>,
    times: Times,
    max_in_flight: i64,
    body_limit: u64,
    started: Instant,
    life: Lifecycle,
    tunnels: TaskTracker,
}

/// What a proxy is made of.
pub(crate) struct Surroundings {
    pub(crate) policy: Policy,
    pub(crate) services: Services,
    pub(crate) metrics: Metrics,
    pub(crate) access_log: Option<AccessLog>,
    /// How many threads serve connections.
    pub(crate) workers: usize,
    pub(crate) life: Lifecycle,
    /// What is waited for when the process stops.
    pub(crate) tasks: TaskTracker,
}

/// Answers requests.
#[derive(Clone)]
pub(crate) struct Gateway(Arc<Proxy>);

impl Gateway {
    /// Begins to follow discovery.
    pub(crate) fn start(args: &ProxyArgs, surroundings: Surroundings) -> Self {
        let Surroundings { policy, mut services, metrics, access_log, workers, life, tasks } = surroundings;
        let api_docs = ApiDocs::new(services.clone());
        let mut updates = Updates::new(&metrics, workers);
        let table = updates.table();
        let known = services.borrow_and_update().clone();
        updates.apply(&known);
        tokio::spawn(updates.follow(services));
        Self(Arc::new(Proxy {
            table,
            policy,
            api_docs,
            unmatched: metrics.route("", "unmatched"),
            metrics,
            access_log,
            times: Times { connect: args.connect_timeout, header: args.header_timeout, total: args.total_timeout },
            max_in_flight: args.max_in_flight.into(),
            body_limit: args.body_limit,
            started: Instant::now(),
            life,
            tunnels: tasks,
        }))
    }
}

impl App for Gateway {
    type Body = Recorded<policy::Body<Answer>>;

    async fn respond(self, request: Request<RequestBody>, peer: Peer) -> Response<Self::Body> {
        let proxy = self.0;
        let (mut parts, body) = request.into_parts();
        let client = proxy.policy.client(peer.address, &parts.headers);
        let facts = proxy.policy.facts(&parts, &client);
        let (is_grpc, is_head) = (is_grpc(&parts), parts.method == Method::HEAD);
        let id = request_id(&parts.headers);
        parts.headers.insert(REQUEST_ID, id.clone());
        let mut record = Record::begin(proxy.clone(), peer.worker, &parts, client.address, id.clone());

        let mut quota = None;
        let reply = proxy.handle(parts, body, &client, &mut record, &mut quota, is_grpc).await;
        let (response, tunnel) = reply.unwrap_or_else(|problem| {
            (if is_grpc { problem.into_grpc() } else { problem.into_http().map(Answer::from) }, None)
        });
        record.answered(response.status());
        let response = if is_head { answer::to_head(response) } else { response };
        let mut response = proxy.policy.to_client(&facts, response);
        // That of the endpoint's is its own affair.
        *response.version_mut() = Version::HTTP_11;
        response.headers_mut().insert(REQUEST_ID, id);
        if let Some(quota) = quota {
            quota.write(response.headers_mut());
        }
        let record = match tunnel {
            Some((tunnel, protocol)) => {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                response.headers_mut().insert(header::UPGRADE, protocol);
                proxy.tunnels.spawn(tunnel.run(proxy.life.clone(), record));
                None
            }
            None => Some(record),
        };
        response.map(|body| Recorded::new(body, record))
    }
}

impl Proxy {
    /// The time since the start.
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    async fn handle(
        &self,
        mut parts: Parts,
        body: RequestBody,
        client: &Client,
        record: &mut Record,
        quota: &mut Option<Quota>,
        is_grpc: bool,
    ) -> Result<(Response<Answer>, Option<(Tunnel, HeaderValue)>), Problem> {
        if self.metrics.in_flight.get() > self.max_in_flight {
            self.metrics.shed.inc();
            return Err(Problem::unavailable("too many requests are in flight; try again in a moment"));
        }
        if parts.method == Method::CONNECT {
            return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "this is no proxy to other hosts"));
        }
        host::check(&mut parts)?;
        if !target::is_unambiguous(parts.uri.path()) {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "the path has a dot segment; resolve it"));
        }
        if let Some(own) = self.api_docs.route(parts.uri.path()) {
            if let Some(preflight) = self.admit(&parts, "gateway", own, client, quota)? {
                return Ok((preflight, None));
            }
            return Ok((self.api_docs.respond(&parts).await.map(Answer::Own), None));
        }
        let route = self.table.load().find(parts.uri.path()).cloned();
        let route = route.ok_or_else(|| Problem::not_found("no service has this path"))?;
        record.route = Some(route.clone());
        if let Some(preflight) = self.admit(&parts, &route.upstream.name, &route.path, client, quota)? {
            return Ok((preflight, None));
        }
        let limit = if is_grpc { u64::MAX } else { self.body_limit };
        if body.size_hint().lower() > limit {
            return Err(self.too_large());
        }

        let on_upgrade = parts.extensions.remove::<OnUpgrade>().filter(|_| policy::is_upgrade(&parts));
        record.trace(&mut parts.headers);
        self.policy.to_upstream(&mut parts, client);
        if is_grpc {
            host::put_in_target(&mut parts)?;
        } else {
            host::name_if_missing(&mut parts.headers, &route.upstream.name)?;
        }
        let keep = !is_grpc && may_repeat(&parts);
        let source = Source::new(body, limit, keep);
        let call = Call { parts, source, upstream: route.upstream.clone(), worker: record.worker(), is_grpc };
        match (self.forward(call, record).await?, on_upgrade) {
            (Reply::Answer(response), _) => Ok((response, None)),
            (Reply::Upgraded { head, stream, early, lease }, Some(on_upgrade)) => {
                let protocol = head.headers().get(header::UPGRADE).cloned();
                let protocol = protocol.unwrap_or(HeaderValue::from_static("websocket"));
                let tunnel = Tunnel { client: on_upgrade, service: stream, early, lease };
                Ok((head.map(|()| Answer::default()), Some((tunnel, protocol))))
            }
            (Reply::Upgraded { .. }, None) => {
                Err(Problem::new(StatusCode::BAD_GATEWAY, "the service changed protocol"))
            }
        }
    }

    /// Whether a request may go on to its route: it may be too many, or a preflight, whose answer this is.
    fn admit(
        &self,
        parts: &Parts,
        service: &str,
        route: &str,
        client: &Client,
        quota: &mut Option<Quota>,
    ) -> Result<Option<Response<Answer>>, Problem> {
        if let Some(preflight) = self.policy.preflight(parts) {
            return Ok(Some(preflight.map(|()| Answer::default())));
        }
        *quota = self.policy.limit(service, route, client);
        match quota {
            Some(quota) if !quota.allowed => Err(quota.problem()),
            _ => Ok(None),
        }
    }

    fn too_large(&self) -> Problem {
        let detail = format!("a request's body may have at most {} bytes", self.body_limit);
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    }
}

/// Whether a request is a gRPC call, which goes by HTTP/2 only.
fn is_grpc(parts: &Parts) -> bool {
    let media_type = parts.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    parts.version == Version::HTTP_2
        && media_type.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest, [] | [b'+' | b';', ..]))
}

#[cfg(test)]
mod tests;

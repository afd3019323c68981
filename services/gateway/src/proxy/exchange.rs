//! One request and its response, from the first header to the last byte.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize},
};

use http::{Method, Response, StatusCode, Version, header, request::Parts};
use http_body::Body as _;
use hyper::upgrade::OnUpgrade;
use runtime::{
    Problem,
    request::{REQUEST_ID, request_id},
    server::{MAX_HEADERS, Peer, ReadDeadline, RequestBody},
};
use tokio::{
    select,
    time::{Instant, timeout_at},
};

use super::{
    access_record::{AccessRecord, MAX_METHOD, RecordedBody},
    attempt::{UpstreamRequest, UpstreamResponse},
    dot_segments, host, max_forwards,
    replayable_body::ReplayableBody,
    response_body::ResponseBody,
    retry,
    route_table::Route,
    state::Proxy,
    tunnel::Tunnel,
};
use crate::{
    auth::{Grant, Lease, LeaseEnd, end_of},
    policy::{self, Client, Quota, ResponseContext},
    protocol::Protocol,
};

pub(crate) type ExchangeBody = RecordedBody<policy::Body<ResponseBody>>;

/// A request that passes through the gateway, in four phases:
///
/// - [`request_filter`](Self::request_filter) refuses or serves the request, or finds its route;
/// - [`upstream_request`](Self::upstream_request) sends it to endpoints of the route's service;
/// - [`response_filter`](Self::response_filter) prepares the response for the client;
/// - `log`, in [`AccessRecord`], runs when the response has been sent or abandoned.
pub(super) struct Exchange {
    proxy: Arc<Proxy>,
    client: Client,
    protocol: Protocol,
    /// What the response depends on.
    context: ResponseContext,
    /// The client's quota, if the request was counted against one.
    quota: Option<Quota>,
    /// The caller's quota, if the request was counted against one.
    subject_quota: Option<Quota>,
    /// What was decided about the caller.
    grant: Grant,
    /// When a call that was let in because of a token must end.
    lease_end: Option<LeaseEnd>,
    /// Route, endpoint and everything else that is logged.
    record: Box<AccessRecord>,
}

/// What `request_filter` decides.
enum Filtered {
    Forward(Arc<Route>),
    Respond(Box<Response<ResponseBody>>),
}

/// What goes back to the client.
enum Reply {
    Response(Response<ResponseBody>),
    /// A response of 101, after which the connection becomes a tunnel.
    Upgrade(Response<()>, Tunnel),
}

impl Exchange {
    /// Starts an exchange, and gives the request an id if it has no valid one.
    pub(super) fn begin(proxy: Arc<Proxy>, parts: &mut Parts, peer: Peer) -> Self {
        let client = proxy.policy.client(peer.address, &parts.headers);
        let context = proxy.policy.response_context(parts, &client);
        let request_id = request_id(&parts.headers);
        parts.headers.insert(REQUEST_ID, request_id.clone());
        let record = AccessRecord::begin(proxy.clone(), peer.worker, parts, &client, request_id);
        Self {
            proxy,
            client,
            protocol: Protocol::of(parts),
            context,
            quota: None,
            subject_quota: None,
            grant: Grant::default(),
            lease_end: None,
            record,
        }
    }

    /// Runs the phases.
    pub(super) async fn run(mut self, mut parts: Parts, body: RequestBody) -> Response<ExchangeBody> {
        let reply = match self.request_filter(&mut parts).await {
            Ok(Filtered::Forward(route)) => self.upstream_request(&route, parts, body).await,
            Ok(Filtered::Respond(response)) => Ok(Reply::Response(*response)),
            Err(problem) => Err(problem),
        };
        self.response_filter(reply)
    }

    /// Refuses requests that must not be passed on, serves what the gateway serves itself, and routes the rest.
    async fn request_filter(&mut self, parts: &mut Parts) -> Result<Filtered, Problem> {
        self.record.check_load()?;
        if parts.method.as_str().len() > MAX_METHOD {
            return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "the method is not supported"));
        }
        // Cookies, which HTTP/2 may send in several fields, are joined into one.
        let more_cookies = parts.headers.get_all(header::COOKIE).iter().skip(1).count();
        check_fields(parts.headers.len() - more_cookies)?;
        if parts.method == Method::CONNECT {
            return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "CONNECT is not supported"));
        }
        host::normalize(parts)?;
        if dot_segments::has_dot_segment(parts.uri.path()) {
            let detail = "the path has a dot segment; resolve it before sending the request";
            return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
        }
        if let Some(response) = max_forwards::respond(parts) {
            self.count("gateway", "*")?;
            return Ok(Filtered::Respond(Box::new(response)));
        }
        if let Some(own) = self.proxy.api_docs.route(parts.uri.path()) {
            if let Some(preflight) = self.admit(parts, "gateway", own)? {
                return Ok(Filtered::Respond(Box::new(preflight)));
            }
            // It may wait for services, and for requests that came before.
            let deadline = Instant::from_std(self.record.started()) + self.proxy.timeouts.total;
            let response = self.proxy.api_docs.respond(parts, self.context.accepts_gzip());
            let response = timeout_at(deadline, response).await.map_err(|_| {
                Problem::unavailable("the API documents of the services are not merged yet; try again in a moment")
            })?;
            return Ok(Filtered::Respond(Box::new(response.map(ResponseBody::Own))));
        }
        let route = self.proxy.routes.load().find(parts.uri.path()).cloned();
        let route = route.ok_or_else(|| Problem::not_found("no service serves this path"))?;
        self.record.route = Some(route.clone());
        if let Some(preflight) = self.admit(parts, &route.upstream.name, &route.path)? {
            return Ok(Filtered::Respond(Box::new(preflight)));
        }
        self.authenticate(parts, &route).await?;
        Ok(Filtered::Forward(route))
    }

    /// Authenticates a request, applies the rules of its route, and counts it against its caller's quota. It comes
    /// after the limit by address, which protects it from floods of bad tokens.
    async fn authenticate(&mut self, parts: &Parts, route: &Route) -> Result<(), Problem> {
        let granted = self.proxy.authenticator.authenticate(parts, &route.upstream.access()).await;
        self.grant = granted.map_err(|denial| self.record.deny(denial))?;
        let Some(caller) = &self.grant.caller else { return Ok(()) };
        self.record.caller = Some(caller.clone());
        self.subject_quota = self.proxy.policy.limit_subject(&route.upstream.name, &route.path, caller);
        check_quota(self.subject_quota.as_ref())
    }

    /// Counts a request against its client's quota. Returns the response if it is a CORS preflight.
    fn admit(&mut self, parts: &Parts, service: &str, route: &str) -> Result<Option<Response<ResponseBody>>, Problem> {
        self.count(service, route)?;
        Ok(self.proxy.policy.preflight(parts).map(|preflight| preflight.map(|()| ResponseBody::default())))
    }

    /// Counts a request against its client's quota, and refuses it if the quota is used up.
    fn count(&mut self, service: &str, route: &str) -> Result<(), Problem> {
        self.quota = self.proxy.policy.limit(service, route, &self.client);
        check_quota(self.quota.as_ref())
    }

    /// Prepares the request for its service, and sends it until an endpoint responds or no further attempt is allowed.
    async fn upstream_request(&mut self, route: &Route, mut parts: Parts, body: RequestBody) -> Result<Reply, Problem> {
        let is_grpc = self.protocol.is_grpc();
        let limit = self.proxy.body_limit(is_grpc);
        if body.size_hint().lower() > limit {
            return Err(self.proxy.body_too_large());
        }
        let upgrade = parts.extensions.remove::<OnUpgrade>().filter(|_| policy::is_upgrade(&parts));
        if upgrade.is_some() {
            self.record.check_tunnel()?;
        }
        self.record.trace(&mut parts.headers);
        let prepared = self.proxy.policy.to_upstream(&mut parts, &self.client, &self.grant);
        prepared.map_err(|denial| self.record.deny(denial))?;
        if is_grpc {
            host::move_to_target(&mut parts)?;
        } else {
            host::set_default(&mut parts.headers, &route.upstream.name)?;
        }
        // With what was added above, and two lines for framing and `connection: close`.
        check_fields(parts.headers.len() + 2)?;
        let is_repeatable = !is_grpc && retry::is_repeatable(&parts, &route.upstream);
        let body = ReplayableBody::new(body, limit, is_repeatable || is_grpc);
        self.record.count_unread(&body)?;
        // A call may go on for hours, before its response begins, too.
        if is_grpc && let Some(lease) = self.lease_of_stream() {
            body.limit_by(lease.clone());
            self.lease_end = Some(lease.end());
        }
        let request = UpstreamRequest {
            parts,
            body,
            upstream: route.upstream.clone(),
            client: self.client.network(),
            worker: self.record.worker(),
            protocol: self.protocol,
            is_repeatable,
            outcome_unknown: AtomicBool::new(false),
            tries: AtomicUsize::new(0),
        };
        let response = select! {
            biased;
            response = retry::send(&self.proxy, &request, &mut self.record) => response?,
            refusal = end_of(self.lease_end.as_mut()) => return Err(self.record.deny(refusal.into())),
        };
        match (response, upgrade) {
            (UpstreamResponse::Http(response), _) => Ok(Reply::Response(response)),
            (UpstreamResponse::Upgraded { head, connection, guard }, Some(client)) => {
                Ok(Reply::Upgrade(head, Tunnel { client, service: connection, guard }))
            }
            (UpstreamResponse::Upgraded { .. }, None) => Err(Problem::new(
                StatusCode::BAD_GATEWAY,
                "the service switched protocols although the client had not asked for it",
            )),
        }
    }

    /// Prepares the response, or the problem in place of one, for the client.
    fn response_filter(self, reply: Result<Reply, Problem>) -> Response<ExchangeBody> {
        match reply {
            Ok(Reply::Response(response)) => self.respond(response),
            Ok(Reply::Upgrade(head, tunnel)) => self.upgrade(head, tunnel),
            Err(problem) => {
                let is_grpc = self.protocol.is_grpc();
                let mut response =
                    if is_grpc { problem.into_grpc() } else { problem.into_http().map(ResponseBody::from) };
                if self.record.omits_content() && !is_grpc {
                    response.headers_mut().remove(header::CONTENT_TYPE);
                    *response.body_mut() = ResponseBody::default();
                }
                self.respond(response)
            }
        }
    }

    fn respond(mut self, mut response: Response<ResponseBody>) -> Response<ExchangeBody> {
        if matches!(response.body(), ResponseBody::Own(_)) {
            response.extensions_mut().insert(ReadDeadline(Instant::now() + self.proxy.timeouts.total));
        }
        let lease = if response.body().is_unlimited() {
            self.lease_end.take().or_else(|| self.lease_of_stream().map(Lease::end))
        } else {
            None
        };
        let response = self.filter_response(response);
        response.map(|body| RecordedBody::new(body, self.record, lease, self.protocol))
    }

    /// Limits how long a stream may go on because of the caller's token. It has at least the time of other requests, so
    /// that no ordinary call is cut off after it has taken effect.
    fn lease_of_stream(&self) -> Option<Lease> {
        self.lease(Instant::from_std(self.record.started()) + self.proxy.timeouts.total)
    }

    /// What may go on for as long as the caller's token is accepted, but at least until `earliest`; `None` if the request
    /// was let in without one.
    fn lease(&self, earliest: Instant) -> Option<Lease> {
        let caller = self.grant.caller.as_ref()?;
        Some(self.proxy.authenticator.lease(caller.clone(), earliest))
    }

    /// Responds with 101 and starts the tunnel, which takes over the record.
    fn upgrade(mut self, head: Response<()>, tunnel: Tunnel) -> Response<ExchangeBody> {
        let response = self.filter_response(head.map(|()| ResponseBody::default()));
        let lease = self.lease(Instant::now()).map(Lease::end);
        self.proxy.tunnels.spawn(tunnel.run(self.proxy.lifecycle.clone(), lease, self.record));
        response.map(RecordedBody::unrecorded)
    }

    fn filter_response(&mut self, response: Response<ResponseBody>) -> Response<policy::Body<ResponseBody>> {
        self.record.set_status(response.status());
        let response = if self.record.is_head() { ResponseBody::strip(response) } else { response };
        let mut response = self.proxy.policy.to_client(&self.context, response);
        // The version that the endpoint speaks says nothing about this connection.
        *response.version_mut() = Version::HTTP_11;
        response.headers_mut().insert(REQUEST_ID, self.record.request_id.clone());
        Quota::insert_headers(self.quota.iter().chain(&self.subject_quota), response.headers_mut());
        response
    }
}

fn check_quota(quota: Option<&Quota>) -> Result<(), Problem> {
    quota.filter(|quota| !quota.allowed).map_or(Ok(()), |quota| Err(quota.problem()))
}

/// Refuses a request with too many header fields, such as a service of Hedgerow would refuse.
fn check_fields(count: usize) -> Result<(), Problem> {
    if count <= MAX_HEADERS {
        return Ok(());
    }
    let detail = format!("the request has more than {MAX_HEADERS} header fields, with those that the gateway adds");
    Err(Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, detail))
}

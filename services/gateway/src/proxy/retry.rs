//! Decides whether a request is sent again.
//!
//! A request is sent at most [`MAX_ATTEMPTS`] times, and no further attempt starts after the total timeout. It is sent
//! again in three cases:
//!
//! 1. Nothing of it was sent, because no connection could be made or the first write failed. This is safe for every
//!    method, gRPC included. Another endpoint that has not been tried must exist.
//! 2. It was sent, but no response head arrived: the endpoint timed out, closed the connection, or did not speak HTTP.
//!    The request must be repeatable: its method is idempotent, or it is a POST or PATCH with an `Idempotency-Key`, and
//!    it is not gRPC. The part of its body that was read must still be buffered (at most 64 KiB), and the client must
//!    not be the cause.
//! 3. The response is 502 or 503, under the conditions of case 2, and another healthy endpoint exists that has not been
//!    tried. A service responds with 503 if it did nothing, or if a repetition with the same key finds out what it did.
//!    The response is kept, and goes to the client if no other endpoint responds.
//!
//! Each retry is paid for out of the service's retry budget. A reused connection that turns out to be closed says
//! nothing about its endpoint, so sending the request on a new connection to the same endpoint is free and does not
//! count as an attempt. If something was sent on the old connection, the conditions of case 2 apply.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderName, Method, StatusCode, request::Parts};
use runtime::Problem;
use tokio::time::Instant;

use super::{
    attempt::{UpstreamRequest, UpstreamResponse},
    balancer::Balancer,
    endpoint::Endpoint,
    outcome::{AttemptError, problem, record_failure, record_response},
    record::Record,
    request_body::RequestBodyError,
    state::Proxy,
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// How often a request is sent at most.
const MAX_ATTEMPTS: usize = 3;

/// Whether a request may be sent twice.
pub(super) fn is_repeatable(parts: &Parts) -> bool {
    parts.method.is_idempotent()
        || (matches!(parts.method, Method::POST | Method::PATCH) && parts.headers.contains_key(IDEMPOTENCY_KEY))
}

/// Sends a request until an endpoint responds or no further attempt is allowed.
pub(super) async fn send(
    proxy: &Proxy,
    request: &UpstreamRequest,
    record: &mut Record,
) -> Result<UpstreamResponse, Problem> {
    let upstream = &*request.upstream;
    let Some(balancer) = upstream.balancer(request.protocol) else {
        return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "this route does not accept gRPC"));
    };
    upstream.retry_budget.deposit();
    let deadline = Instant::from_std(record.started()) + proxy.timeouts.total;
    // gRPC has the caller's own deadline: a stream may be silent for hours.
    let deadline = (!request.protocol.is_grpc()).then_some(deadline);
    let mut attempts = Attempts { request, balancer, tried: Vec::new() };
    let mut fallback: Option<Fallback> = None;
    loop {
        let Some(endpoint) = balancer.pick(&attempts.tried, proxy.now()) else {
            let detail = || format!("{} has no endpoint right now; try again in a moment", upstream.name);
            return fallback
                .map_or_else(|| Err(Problem::unavailable(detail())), |fallback| Ok(fallback.accept(request, record)));
        };
        record.endpoint = Some(endpoint.clone());
        match request.attempt(&endpoint, proxy.timeouts, deadline).await {
            Ok(mut response) => {
                let (status, now) = (response.status(), proxy.now());
                record_response(upstream, balancer, &endpoint, status, now);
                response.set_deadline(deadline);
                if !attempts.may_replace(&endpoint, status, now) {
                    request.body.release();
                    return Ok(response);
                }
                response.abort_upload();
                fallback = Some(Fallback { response, endpoint });
            }
            Err(error) => {
                if let Some(fault) = request.body.error() {
                    return Err(refusal(proxy, fault));
                }
                let now = proxy.now();
                record_failure(upstream, balancer, &endpoint, error.kind, &error.reason, now);
                let in_time = deadline.is_none_or(|deadline| deadline > Instant::now());
                if !(attempts.may_follow(&endpoint, &error) && in_time && upstream.retry_budget.withdraw(now)) {
                    let has_effects = request.protocol.is_grpc() || !request.parts.method.is_safe();
                    return fallback.map_or_else(
                        || Err(problem(upstream, &error, has_effects)),
                        |fallback| Ok(fallback.accept(request, record)),
                    );
                }
            }
        }
        record.retries += 1;
        upstream.metrics.retries.inc();
    }
}

/// The attempts made so far.
struct Attempts<'a> {
    request: &'a UpstreamRequest,
    balancer: &'a Balancer,
    /// The endpoints that failed.
    tried: Vec<SocketAddr>,
}

impl Attempts<'_> {
    /// Whether to try another endpoint instead of passing on this one's response.
    fn may_replace(&mut self, endpoint: &Endpoint, status: StatusCode, now: Duration) -> bool {
        if !matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE) {
            return false;
        }
        self.tried.push(endpoint.address);
        self.request.may_repeat()
            && self.tried.len() < MAX_ATTEMPTS
            && self.balancer.has_healthy_besides(&self.tried, now)
            && self.request.upstream.retry_budget.withdraw(now)
    }

    /// Whether an attempt may follow one that failed, time and budget permitting.
    fn may_follow(&mut self, endpoint: &Endpoint, error: &AttemptError) -> bool {
        self.tried.push(endpoint.address);
        let may_retry =
            if error.is_unsent { self.balancer.has_untried(&self.tried) } else { self.request.may_repeat() };
        may_retry && self.tried.len() < MAX_ATTEMPTS
    }
}

/// A response of 502 or 503 that is passed on if no other endpoint responds.
struct Fallback {
    response: UpstreamResponse,
    endpoint: Arc<Endpoint>,
}

impl Fallback {
    fn accept(self, request: &UpstreamRequest, record: &mut Record) -> UpstreamResponse {
        request.body.release();
        record.endpoint = Some(self.endpoint);
        self.response
    }
}

/// The response to a request whose body the client did not send properly.
fn refusal(proxy: &Proxy, error: RequestBodyError) -> Problem {
    match error {
        RequestBodyError::TooLarge => proxy.body_too_large(),
        RequestBodyError::Timeout => {
            Problem::new(StatusCode::REQUEST_TIMEOUT, "the request body did not arrive in time")
        }
        RequestBodyError::Incomplete => {
            Problem::new(StatusCode::BAD_REQUEST, "the request body is malformed or incomplete")
        }
    }
}

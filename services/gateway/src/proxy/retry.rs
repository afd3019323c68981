//! Decides whether a request is sent again.
//!
//! A request is sent at most three times, and no further attempt starts after the total timeout. It is sent again in
//! three cases:
//!
//! 1. Nothing of it was sent, because no connection could be made or the first write failed, or the endpoint says that
//!    it has processed nothing (`REFUSED_STREAM`). This is safe for every method, gRPC included. Another endpoint that
//!    has not been tried must exist, and what was sent must still be buffered (at most 64 KiB).
//! 2. It was sent, but no response head arrived: the endpoint timed out, closed the connection, or did not speak HTTP.
//!    The request must be repeatable: its method is idempotent, or it is a POST or PATCH with an `Idempotency-Key`
//!    where the service says that it honors keys, and it is not gRPC. The part of its body that was read must still be
//!    buffered (at most 64 KiB), and the client must not be the cause.
//! 3. The response is 502 or 503, under the conditions of case 2, and another healthy endpoint exists that has not been
//!    tried. A service responds with 503 if it did nothing, or adds `x-outcome: unknown` if it does not know. The
//!    response is kept, and goes to the client if no other endpoint responds.
//!
//! The client learns the outcome of all attempts. If something was sent that got no response, or one that says that its
//! outcome is unknown, the request may have taken effect, whatever followed. Then, unless its method is safe, the
//! client gets `outcome-unknown` instead of any other 502, 503 or 504, instead of a 412, since the first attempt may have
//! made the change that the precondition of the second one found, instead of a 404 or 410 to a DELETE, for the same
//! reason, and instead of a 408, 421, 425 or 429, with which the second endpoint only says that it did nothing itself.
//!
//! Each retry is paid for out of the service's retry budget. A reused connection that turns out to be closed says
//! nothing about its endpoint, so sending the request on a new connection to the same endpoint is free. If something
//! was sent on the old connection, the conditions of case 2 apply, and it counts as one of the three times.

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::{HeaderName, Method, StatusCode, request::Parts};
use identity::Refusal;
use runtime::Problem;
use tokio::{
    select,
    time::{Instant, sleep},
};

use super::{
    access_record::{AccessRecord, too_much_unread},
    attempt::{UpstreamRequest, UpstreamResponse},
    endpoint::Endpoint,
    outcome::{AttemptError, no_endpoint, problem, record_error, record_response},
    replayable_body::RequestBodyError,
    state::Proxy,
    upstream::{Balancer, Choice, Upstream},
};

/// How long a probe waits for its client. A slow upload must not keep other requests from probing the endpoint.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Headers that make some frameworks execute another method.
const METHOD_OVERRIDES: [&str; 3] = ["x-http-method", "x-http-method-override", "x-method-override"];

/// Whether a request may be sent twice. A service that ignores a key, takes an empty one for none, or another one of
/// several, would execute the request twice.
pub(super) fn is_repeatable(parts: &Parts, upstream: &Upstream) -> bool {
    let has_key = || {
        let mut keys = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
        let key = keys.next().filter(|key| !key.as_bytes().trim_ascii().is_empty());
        key.is_some() && keys.next().is_none()
    };
    // What a service executes instead of the method need not be idempotent.
    if parts.headers.keys().any(overrides_method) {
        return false;
    }
    parts.method.is_idempotent()
        || (matches!(parts.method, Method::POST | Method::PATCH)
            && has_key()
            && upstream.honors_idempotency_keys(parts.uri.path()))
}

/// Whether a header overrides the method, also for services that cannot tell `_` in its name from `-`.
fn overrides_method(name: &HeaderName) -> bool {
    let canonical = |byte: u8| if byte.is_ascii_alphanumeric() { byte } else { b'-' };
    let name = name.as_str();
    METHOD_OVERRIDES.iter().any(|own| own.len() == name.len() && name.bytes().map(canonical).eq(own.bytes()))
}

/// Waits until the client keeps the endpoint waiting for more of the body.
async fn client_is_slow(request: &UpstreamRequest) {
    loop {
        sleep(PROBE_PATIENCE).await;
        if request.body.is_awaited() {
            return;
        }
    }
}

/// Sends a request until an endpoint responds or no further attempt is allowed.
pub(super) async fn send(
    proxy: &Proxy,
    request: &UpstreamRequest,
    record: &mut AccessRecord,
) -> Result<UpstreamResponse, Problem> {
    let upstream = &*request.upstream;
    let Some(balancer) = upstream.balancer(request.protocol) else {
        return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "this route does not accept gRPC"));
    };
    upstream.retry_budget.deposit();
    let total = Instant::from_std(record.started()) + proxy.timeouts.total;
    // gRPC has the caller's own deadline: a stream may be silent for hours.
    let deadline = (!request.protocol.is_grpc()).then_some(total);
    let mut attempts = Attempts { request, balancer, deadline, tried: Vec::new() };
    // A response of 502 or 503, which is passed on if no other endpoint responds.
    let mut fallback: Option<(UpstreamResponse, Arc<Endpoint>)> = None;
    let problem = loop {
        let Some(Choice { endpoint, mut probe }) = balancer.choose(&attempts.tried, proxy.now()) else {
            break no_endpoint(upstream, attempts.may_have_effects());
        };
        record.endpoint = Some(endpoint.clone());
        let outcome = {
            let mut attempt = pin!(request.attempt(&endpoint, proxy.timeouts, total));
            select! {
                biased;
                outcome = &mut attempt => outcome,
                () = client_is_slow(request), if probe.is_some() => {
                    drop(probe.take());
                    attempt.await
                }
            }
        };
        match outcome {
            Ok(mut response) => {
                let (status, now) = (response.status(), proxy.now());
                record_response(upstream, balancer, &endpoint, status, now);
                response.set_deadline(deadline);
                if response.has_unknown_outcome() {
                    request.outcome_unknown.store(true, Ordering::Relaxed);
                }
                if !attempts.may_replace(&endpoint, status, now) {
                    request.body.release();
                    return attempts.pass_on(response);
                }
                response.abort_upload();
                fallback = Some((response, endpoint));
            }
            Err(error) => {
                if let Some(fault) = request.body.error() {
                    return Err(refusal(proxy, fault));
                }
                let now = proxy.now();
                record_error(upstream, balancer, &endpoint, &error, now);
                if !attempts.may_follow(&endpoint, &error, now) {
                    break problem(upstream, &error, attempts.may_have_effects());
                }
            }
        }
        record.retries += 1;
        upstream.metrics.retries.inc();
    };
    let Some((response, endpoint)) = fallback else { return Err(problem) };
    request.body.release();
    record.endpoint = Some(endpoint);
    attempts.pass_on(response)
}

/// The attempts made so far.
struct Attempts<'a> {
    request: &'a UpstreamRequest,
    balancer: &'a Balancer,
    /// When no further attempt may start.
    deadline: Option<Instant>,
    /// The endpoints that failed.
    tried: Vec<SocketAddr>,
}

impl Attempts<'_> {
    /// Whether to try another endpoint instead of passing on this one's response. If so, it is paid for.
    fn may_replace(&mut self, endpoint: &Endpoint, status: StatusCode, now: Duration) -> bool {
        if !is_unavailable(status) {
            return false;
        }
        self.tried.push(endpoint.address);
        self.request.may_repeat() && self.balancer.has_healthy_besides(&self.tried, now) && self.may_start(now)
    }

    /// Whether an attempt may follow one that failed. If so, it is paid for.
    fn may_follow(&mut self, endpoint: &Endpoint, error: &AttemptError, now: Duration) -> bool {
        self.tried.push(endpoint.address);
        if !error.had_no_effect() {
            self.request.outcome_unknown.store(true, Ordering::Relaxed);
        }
        let may_retry = if error.had_no_effect() {
            // What was sent of a refused request is needed again.
            self.balancer.has_untried(&self.tried) && (error.is_unsent || self.request.body.is_replayable())
        } else {
            self.request.may_repeat()
        };
        may_retry && self.may_start(now)
    }

    /// Whether number, time and budget allow another attempt.
    fn may_start(&self, now: Duration) -> bool {
        self.request.has_try()
            && self.deadline.is_none_or(|deadline| deadline > Instant::now())
            && self.request.upstream.retry_budget.withdraw(now)
    }

    /// Whether an attempt may have taken effect.
    fn may_have_effects(&self) -> bool {
        let outcome_unknown = self.request.outcome_unknown.load(Ordering::Relaxed);
        outcome_unknown && (self.request.protocol.is_grpc() || !self.request.parts.method.is_safe())
    }

    /// Passes on a response, unless it says that nothing was done although an earlier attempt may have done it.
    fn pass_on(&self, response: UpstreamResponse) -> Result<UpstreamResponse, Problem> {
        let status = match response.status() {
            // It may be gone because an earlier attempt has deleted it.
            StatusCode::NOT_FOUND | StatusCode::GONE if self.request.parts.method == Method::DELETE => {
                StatusCode::BAD_GATEWAY
            }
            StatusCode::PRECONDITION_FAILED
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::MISDIRECTED_REQUEST
            | StatusCode::TOO_EARLY
            | StatusCode::TOO_MANY_REQUESTS => StatusCode::BAD_GATEWAY,
            status if is_unavailable(status) => status,
            _ => return Ok(response),
        };
        if response.has_unknown_outcome() || !self.may_have_effects() {
            return Ok(response);
        }
        Err(Problem::outcome_unknown_as(status).caused_by("the outcome of another attempt is unknown"))
    }
}

/// Whether another endpoint may respond better.
fn is_unavailable(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE)
}

/// The response to a request whose body the client did not send properly.
fn refusal(proxy: &Proxy, error: RequestBodyError) -> Problem {
    match error {
        RequestBodyError::TooLarge => proxy.body_too_large(),
        RequestBodyError::Unread => too_much_unread(),
        RequestBodyError::Timeout => {
            Problem::new(StatusCode::REQUEST_TIMEOUT, "the request body did not arrive in time")
        }
        RequestBodyError::TokenEnded(reason) => Refusal::InvalidToken(reason).into(),
        RequestBodyError::Incomplete => {
            Problem::new(StatusCode::BAD_REQUEST, "the request body is malformed or incomplete")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize};

    use http::Request;
    use prometheus::Registry;

    use super::*;
    use crate::{metrics::Metrics, protocol::Protocol, proxy::replayable_body::ReplayableBody};

    #[test]
    fn a_response_after_the_deadline_is_passed_on() {
        let metrics = Metrics::new(&Registry::new()).expect("metrics");
        let upstream = Arc::new(Upstream::new("test", &metrics, 1));
        upstream.set_endpoints(&[1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port))), None);
        let balancer = upstream.balancer(Protocol::Http).expect("endpoints");
        let endpoint = balancer.choose(&[], Duration::ZERO).expect("an endpoint").endpoint;
        let request = UpstreamRequest {
            parts: Request::new(()).into_parts().0,
            body: ReplayableBody::default(),
            upstream: upstream.clone(),
            client: 0,
            worker: 0,
            protocol: Protocol::Http,
            is_repeatable: true,
            outcome_unknown: AtomicBool::new(false),
            tries: AtomicUsize::new(1),
        };
        for (left, expected) in [(Duration::from_mins(1), true), (Duration::ZERO, false)] {
            let deadline = Some(Instant::now() + left);
            let mut attempts = Attempts { request: &request, balancer, deadline, tried: Vec::new() };
            let may_replace = attempts.may_replace(&endpoint, StatusCode::SERVICE_UNAVAILABLE, Duration::ZERO);
            assert_eq!(may_replace, expected, "{left:?}");
        }
    }
}

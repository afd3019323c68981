//! What the outcome of an attempt means for the endpoint's health, for metrics and for the client.

use std::{io, time::Duration};

use http::StatusCode;
use runtime::Problem;

use super::{balancer::Balancer, endpoint::Endpoint, upstream::Upstream};
use crate::metrics::UpstreamError;

/// Why an attempt ended without a response.
pub(super) struct AttemptError {
    pub(super) kind: UpstreamError,
    pub(super) reason: String,
    /// Whether nothing of the request was sent.
    pub(super) is_unsent: bool,
}

impl AttemptError {
    pub(super) fn connect(error: &io::Error) -> Self {
        Self { kind: UpstreamError::Connect, reason: error.to_string(), is_unsent: true }
    }

    pub(super) fn protocol(reason: &str) -> Self {
        Self { kind: UpstreamError::Protocol, reason: reason.to_owned(), is_unsent: false }
    }
}

/// Records what a response says about its endpoint.
pub(super) fn record_response(
    upstream: &Upstream,
    balancer: &Balancer,
    endpoint: &Endpoint,
    status: StatusCode,
    now: Duration,
) {
    match status {
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => {
            record_failure(upstream, balancer, endpoint, UpstreamError::Gateway, status.as_str(), now);
        }
        // Neither a success nor a failure; see `health`.
        StatusCode::SERVICE_UNAVAILABLE => {}
        _ => {
            if endpoint.health.succeeded(now) {
                tracing::info!(service = &*upstream.name, endpoint = %endpoint.address, "endpoint recovered");
            }
        }
    }
}

/// Records a failed attempt, after which the endpoint may be ejected.
pub(super) fn record_failure(
    upstream: &Upstream,
    balancer: &Balancer,
    endpoint: &Endpoint,
    kind: UpstreamError,
    reason: &str,
    now: Duration,
) {
    upstream.metrics.count_error(kind);
    let (service, address, label) = (&*upstream.name, endpoint.address, kind.label());
    let Some(time) = endpoint.health.failed(kind == UpstreamError::Connect, now) else {
        tracing::debug!(service, endpoint = %address, kind = label, reason, "endpoint failed");
        return;
    };
    if balancer.eject(endpoint, time, now) {
        upstream.metrics.ejections.inc();
        tracing::warn!(service, endpoint = %address, kind = label, reason, ?time, "endpoint ejected");
    } else if runtime::request::should_log_refusal() {
        tracing::warn!(service, endpoint = %address, kind = label, reason, "last healthy endpoint failed; not ejected");
    }
}

/// The response to a request that no endpoint responded to.
pub(super) fn problem(upstream: &Upstream, error: &AttemptError, has_effects: bool) -> Problem {
    let name = &upstream.name;
    let problem = match error.kind {
        _ if error.is_unsent => Problem::unavailable(format!("{name} cannot be reached; try again in a moment")),
        UpstreamError::Timeout if has_effects => Problem::outcome_unknown_as(StatusCode::GATEWAY_TIMEOUT),
        UpstreamError::Timeout => Problem::new(StatusCode::GATEWAY_TIMEOUT, format!("{name} did not respond in time")),
        _ if has_effects => Problem::outcome_unknown_as(StatusCode::BAD_GATEWAY),
        _ => Problem::new(StatusCode::BAD_GATEWAY, format!("{name} did not respond")),
    };
    problem.caused_by(format!("{}: {}", error.kind.label(), error.reason))
}

//! What the outcome of an attempt means for the endpoint's health, for metrics and for the client.

use std::{error::Error, time::Duration};

use http::StatusCode;
use runtime::Problem;

use super::{
    endpoint::Endpoint,
    upstream::{Balancer, Upstream},
};
use crate::metrics::UpstreamError;

/// Why an attempt ended without a response.
pub(super) struct AttemptError {
    pub(super) kind: UpstreamError,
    pub(super) reason: String,
    /// Whether nothing of the request was sent in this attempt.
    pub(super) is_unsent: bool,
    /// Whether the endpoint says that it has processed nothing of what was sent.
    pub(super) is_refused: bool,
    /// Whether it is a failure of the endpoint, and not what its client may have caused or what was counted already.
    pub(super) is_of_endpoint: bool,
}

impl AttemptError {
    pub(super) fn new(kind: UpstreamError, error: &dyn Error, is_unsent: bool) -> Self {
        Self { kind, reason: runtime::request::chain(error), is_unsent, is_refused: false, is_of_endpoint: true }
    }

    pub(super) fn protocol(reason: &str) -> Self {
        let (kind, reason) = (UpstreamError::Protocol, reason.to_owned());
        Self { kind, reason, is_unsent: false, is_refused: false, is_of_endpoint: true }
    }

    /// Whether it is certain that the attempt had no effect.
    pub(super) fn had_no_effect(&self) -> bool {
        self.is_unsent || self.is_refused
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

/// Records an attempt without a response.
pub(super) fn record_error(
    upstream: &Upstream,
    balancer: &Balancer,
    endpoint: &Endpoint,
    error: &AttemptError,
    now: Duration,
) {
    let (kind, reason) = (error.kind, &*error.reason);
    if error.is_of_endpoint {
        return record_failure(upstream, balancer, endpoint, kind, reason, now);
    }
    upstream.metrics.count_error(kind);
    let (service, address) = (&*upstream.name, endpoint.address);
    tracing::debug!(service, endpoint = %address, kind = kind.label(), reason, "call failed");
}

/// Records a failed attempt, after which the endpoint may be ejected.
fn record_failure(
    upstream: &Upstream,
    balancer: &Balancer,
    endpoint: &Endpoint,
    kind: UpstreamError,
    reason: &str,
    now: Duration,
) {
    upstream.metrics.count_error(kind);
    let (service, address, label) = (&*upstream.name, endpoint.address, kind.label());
    if kind == UpstreamError::Local {
        // The endpoint is not to blame.
        if runtime::request::should_log_refusal() {
            tracing::error!(service, endpoint = %address, reason, "cannot open connections");
        }
        return;
    }
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

/// The response to a request for which there is no endpoint, or none is left for a retry.
pub(super) fn no_endpoint(upstream: &Upstream, may_have_effects: bool) -> Problem {
    if may_have_effects {
        return Problem::outcome_unknown_as(StatusCode::BAD_GATEWAY);
    }
    Problem::unavailable(format!("{} has no available endpoint; try again in a moment", upstream.name))
}

/// The response to a request that no endpoint responded to. `error` is that of the last attempt, and `may_have_effects`
/// says whether any attempt may have taken effect.
pub(super) fn problem(upstream: &Upstream, error: &AttemptError, may_have_effects: bool) -> Problem {
    let name = &upstream.name;
    let problem = match error.kind {
        UpstreamError::Timeout if may_have_effects => Problem::outcome_unknown_as(StatusCode::GATEWAY_TIMEOUT),
        _ if may_have_effects => Problem::outcome_unknown_as(StatusCode::BAD_GATEWAY),
        _ if error.had_no_effect() => Problem::unavailable(format!("{name} cannot be reached; try again in a moment")),
        UpstreamError::Timeout => Problem::new(StatusCode::GATEWAY_TIMEOUT, format!("{name} did not respond in time")),
        _ => Problem::new(StatusCode::BAD_GATEWAY, format!("{name} did not send a valid response")),
    };
    problem.caused_by(format!("{}: {}", error.kind.label(), error.reason))
}

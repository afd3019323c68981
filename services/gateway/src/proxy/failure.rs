//! Endpoints that have no answer: what is noted of them, and what their clients are told.

use std::{io, time::Duration};

use http::StatusCode;
use runtime::Problem;

use super::{
    endpoint::Endpoint,
    upstream::{Group, Upstream},
};
use crate::metrics::UpstreamError;

/// Why an endpoint has no answer.
pub(super) struct Failed {
    pub(super) kind: UpstreamError,
    pub(super) reason: String,
    /// Nothing of the request was sent.
    pub(super) is_unsent: bool,
}

impl Failed {
    pub(super) fn new(kind: UpstreamError, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into(), is_unsent: false }
    }

    /// Where no connection was made.
    pub(super) fn to_connect(error: &io::Error) -> Self {
        Self { kind: UpstreamError::Connect, reason: error.to_string(), is_unsent: true }
    }
}

/// Notes what an answer says of its endpoint.
pub(super) fn note_answer(upstream: &Upstream, group: &Group, endpoint: &Endpoint, status: StatusCode, now: Duration) {
    match status {
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => {
            note_failure(upstream, group, endpoint, UpstreamError::Gateway, status.as_str(), now);
        }
        // Neither well nor ill; see `health`.
        StatusCode::SERVICE_UNAVAILABLE => {}
        _ => {
            if endpoint.health.succeeded(now) {
                tracing::info!(service = &*upstream.name, endpoint = %endpoint.address, "endpoint is back");
            }
        }
    }
}

/// Notes that an endpoint has no answer; it may be left out from now on.
pub(super) fn note_failure(
    upstream: &Upstream,
    group: &Group,
    endpoint: &Endpoint,
    kind: UpstreamError,
    reason: &str,
    now: Duration,
) {
    upstream.metrics.failed(kind);
    let (service, address, label) = (&*upstream.name, endpoint.address, kind.label());
    let Some(time) = endpoint.health.failed(kind == UpstreamError::Connect, now) else {
        tracing::debug!(service, endpoint = %address, kind = label, reason, "endpoint failed");
        return;
    };
    if group.eject(endpoint, time, now) {
        upstream.metrics.ejections.inc();
        tracing::warn!(service, endpoint = %address, kind = label, reason, ?time, "endpoint is left out");
    } else if runtime::request::refusal_is_due() {
        tracing::warn!(service, endpoint = %address, kind = label, reason, "the last endpoint failed");
    }
}

/// What the client is told.
pub(super) fn problem(upstream: &Upstream, failed: &Failed, has_effects: bool) -> Problem {
    let name = &upstream.name;
    let problem = match failed.kind {
        _ if failed.is_unsent => Problem::unavailable(format!("{name} cannot be reached; try again in a moment")),
        UpstreamError::Timeout if has_effects => Problem::outcome_unknown_as(StatusCode::GATEWAY_TIMEOUT),
        UpstreamError::Timeout => Problem::new(StatusCode::GATEWAY_TIMEOUT, format!("{name} did not answer in time")),
        _ if has_effects => Problem::outcome_unknown_as(StatusCode::BAD_GATEWAY),
        _ => Problem::new(StatusCode::BAD_GATEWAY, format!("{name} did not answer")),
    };
    problem.caused_by(format!("{}: {}", failed.kind.label(), failed.reason))
}

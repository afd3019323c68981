//! The record of the requests that are refused because of who sent them, wherever that is decided.

use std::{
    error::Error,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};
use identity::{Caller, Refusal};
use prometheus::{IntCounterVec, Opts, Registry};
use runtime::{Cause, request::LogLimit};
use tonic::Status;

use crate::{Identity, limits::REFUSAL_LOG_INTERVAL};

/// The gateway replaces what the client sent: the first element is the client's address.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Counts and logs refusals.
#[derive(Clone)]
pub(crate) struct Refusals(Arc<Inner>);

struct Inner {
    count: IntCounterVec,
    /// The log of callers who are known, which a flood of bad tokens does not fill.
    known: LogLimit,
    unknown: LogLimit,
}

/// Who sent a request, and which operation it is for.
pub(crate) struct Origin<'a> {
    /// `None` if that is not known.
    pub(crate) identity: Option<&'a Identity>,
    pub(crate) address: Option<&'a HeaderValue>,
    pub(crate) operation: &'a str,
    pub(crate) request_id: &'a HeaderValue,
}

impl Refusals {
    /// Registers the metric.
    ///
    /// # Errors
    /// Returns an error if two metrics share a name, which is a bug.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let help = "Requests and calls that were refused because of who sent them, by reason.";
        let count = IntCounterVec::new(Opts::new("auth_refusals_total", help), &["reason"])?;
        registry.register(Box::new(count.clone()))?;
        let [known, unknown] = [(); 2].map(|()| LogLimit::new(REFUSAL_LOG_INTERVAL));
        Ok(Self(Arc::new(Inner { count, known, unknown })))
    }

    /// Records a refusal, if this response is one. A flood of them does not flood the log.
    pub(crate) fn record(&self, response: &Response, origin: &Origin<'_>) {
        let Some(refusal) = refusal(response) else { return };
        let outcome = refusal.name();
        self.0.count.with_label_values(&[outcome]).inc();
        let &Origin { identity, address, operation, request_id } = origin;
        let caller = identity.and_then(Identity::caller);
        let subject = match (caller, refusal) {
            (Some(caller), _) => caller.subject(),
            (None, Refusal::NotAdmitted(subject)) => subject,
            (None, _) => "",
        };
        let limit = if subject.is_empty() { &self.0.unknown } else { &self.0.known };
        let Some(omitted) = limit.due() else { return };
        tracing::info!(
            target: "audit",
            event = "refusal",
            subject,
            client = caller.and_then(Caller::client).unwrap_or_default(),
            service = identity.and_then(Identity::service).map_or("", Caller::subject),
            address = address.and_then(parse).map(tracing::field::display),
            outcome,
            operation,
            request_id = request_id.to_str().unwrap_or_default(),
            reason = %refusal,
            omitted,
            "caller refused"
        );
    }
}

/// Returns the header with the address of the client.
pub(crate) fn address(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(FORWARDED_FOR).cloned()
}

/// Why a request was refused, if this is the response to one that was.
fn refusal(response: &Response) -> Option<&Refusal> {
    let extensions = response.extensions();
    if let Some(Cause(cause)) = extensions.get() {
        return cause.downcast_ref();
    }
    extensions.get::<Status>()?.source()?.downcast_ref()
}

/// Parses the first address, with or without a port.
fn parse(forwarded_for: &HeaderValue) -> Option<IpAddr> {
    let first = forwarded_for.to_str().ok()?.split(',').next()?.trim();
    let address = first.parse().ok().or_else(|| Some(first.parse::<SocketAddr>().ok()?.ip()));
    address.or_else(|| first.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
}

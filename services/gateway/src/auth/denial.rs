//! Why requests are refused, and the record of it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::StatusCode;
use identity::{Caller, Refusal};
use prometheus::{IntCounterVec, Opts, Registry};
use runtime::{Problem, request::LogLimit};

/// The shortest time between two lines of the audit log. The access log has all requests.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Why a request is not let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Denial {
    /// Because of who sent it, if that is known.
    #[error("{refusal}")]
    Caller { refusal: Refusal, caller: Option<Arc<Caller>> },
    /// The path may mean different things to the rules and to the service.
    #[error("the path has an encoded letter, digit or slash, a semicolon, a backslash or an empty segment")]
    AmbiguousPath,
    /// The gateway does not understand the rules of the route.
    #[error("the route is closed, because its rules are not understood")]
    Closed,
    /// The service gets the names of callers in headers, which cannot hold this one.
    #[error("the token has a name that the service cannot be told in a header")]
    Unnameable,
}

impl From<Refusal> for Denial {
    fn from(refusal: Refusal) -> Self {
        Self::Caller { refusal, caller: None }
    }
}

impl Denial {
    /// Because of a caller that is known.
    pub(super) fn of(refusal: Refusal, caller: Arc<Caller>) -> Self {
        Self::Caller { refusal, caller: Some(caller) }
    }

    /// Who is refused, if that is known.
    pub(crate) fn caller(&self) -> Option<&Arc<Caller>> {
        if let Self::Caller { caller, .. } = self { caller.as_ref() } else { None }
    }

    /// The response.
    pub(crate) fn problem(&self) -> Problem {
        match self {
            Self::Caller { refusal, .. } => refusal.clone().into(),
            Self::AmbiguousPath => Problem::new(StatusCode::BAD_REQUEST, self.to_string()),
            Self::Closed => Problem::unavailable(self.to_string()),
            Self::Unnameable => Problem::new(StatusCode::FORBIDDEN, self.to_string()),
        }
    }

    /// The value of the metric's label.
    fn outcome(&self) -> &'static str {
        match self {
            Self::Caller { refusal, .. } => refusal.name(),
            Self::AmbiguousPath => "ambiguous-path",
            Self::Closed => "route-closed",
            Self::Unnameable => "unnameable-caller",
        }
    }
}

/// Where a refused request comes from, and where it was going to.
pub(crate) struct Origin<'a> {
    /// Who sent it, if that is known.
    pub(crate) caller: Option<&'a Caller>,
    pub(crate) address: IpAddr,
    pub(crate) service: &'a str,
    pub(crate) route: &'a str,
    pub(crate) request_id: &'a str,
}

/// Counts and logs refusals.
pub(super) struct Denials {
    count: IntCounterVec,
    log: LogLimit,
}

impl Denials {
    /// Creates the metric.
    ///
    /// # Errors
    /// Returns an error if it is already registered.
    pub(super) fn new(registry: &Registry) -> anyhow::Result<Self> {
        let help = "Requests, tunnels and streams that were refused or ended because of who sent them, by outcome.";
        let count = IntCounterVec::new(Opts::new("gateway_denials_total", help), &["outcome"])?;
        registry.register(Box::new(count.clone()))?;
        Ok(Self { count, log: LogLimit::new(LOG_INTERVAL) })
    }

    /// Records a refusal. A flood of them does not flood the log.
    pub(super) fn record(&self, denial: &Denial, origin: &Origin<'_>) {
        let outcome = denial.outcome();
        self.count.with_label_values(&[outcome]).inc();
        if let Some(omitted) = self.log.due() {
            let &Origin { caller, address, service, route, request_id } = origin;
            let subject = caller.map_or("", Caller::subject);
            let client = caller.and_then(Caller::client).unwrap_or_default();
            tracing::info!(
                target: "audit",
                event = "refusal",
                subject,
                client,
                %address,
                outcome,
                service,
                route,
                request_id,
                reason = %denial,
                omitted,
                "caller refused"
            );
        }
    }
}

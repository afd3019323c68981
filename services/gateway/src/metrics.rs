//! The gateway's metrics. What each request touches is looked up when its route is made, or for the first request of its
//! method and status, and not for every one.
//!
//! No label is without bound: a route is a prefix of the table, a method one of those of the standard, a status a number
//! up to 599.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Method, StatusCode};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use runtime::metrics::BUCKETS;

/// The methods that have a label of their own; what else there is is `OTHER`.
const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

/// How a request to an endpoint went wrong; its name is a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpstreamError {
    /// No connection was made.
    Connect,
    /// No head of an answer came in time, or not all of the answer.
    Timeout,
    /// The connection ended before the answer did.
    Reset,
    /// What came was no HTTP.
    Protocol,
    /// The endpoint itself says that it could not reach what it needs: 502 or 504.
    Gateway,
}

impl UpstreamError {
    const ALL: [Self; 5] = [Self::Connect, Self::Timeout, Self::Reset, Self::Protocol, Self::Gateway];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::Gateway => "gateway",
        }
    }
}

/// All of them.
#[derive(Clone)]
pub(crate) struct Metrics {
    requests: IntCounterVec,
    durations: HistogramVec,
    service_in_flight: IntGaugeVec,
    retries: IntCounterVec,
    ejections: IntCounterVec,
    errors: IntCounterVec,
    /// Requests being handled now.
    pub(crate) in_flight: IntGauge,
    /// Requests that were refused because too many were in flight.
    pub(crate) shed: IntCounter,
    /// Lines of the access log that were not written.
    pub(crate) log_dropped: IntCounter,
    /// Routes there are now.
    pub(crate) routes: IntGauge,
    /// How long it took to apply what discovery told.
    pub(crate) updates: Histogram,
}

/// Those of a route.
pub(crate) struct RouteMetrics {
    all: Metrics,
    service: Box<str>,
    route: Box<str>,
    /// Of each method the statuses that were seen, in that order. They are few.
    methods: [OnceLock<Box<Answers>>; METHODS.len() + 1],
    retired: AtomicBool,
}

/// What is known of answers with one method and status.
struct Answers {
    status: Status,
    count: IntCounter,
    durations: Histogram,
    next: OnceLock<Box<Self>>,
}

/// A status as a label; `None`: one above 599.
type Status = Option<StatusCode>;

/// Those of a service.
pub(crate) struct ServiceMetrics {
    all: Metrics,
    service: Box<str>,
    /// Requests that wait for one of its endpoints.
    pub(crate) in_flight: IntGauge,
    /// Requests that were sent once more.
    pub(crate) retries: IntCounter,
    /// How often an endpoint was left out.
    pub(crate) ejections: IntCounter,
    errors: [IntCounter; UpstreamError::ALL.len()],
}

impl Metrics {
    /// # Errors
    /// Where two metrics have one name: a mistake in the code.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let answer = &["service", "route", "method", "status"];
        let durations = HistogramOpts::new(
            "http_request_duration_seconds",
            "Time from a request's head to the end of its answer, by route.",
        );
        let updates =
            HistogramOpts::new("gateway_route_update_seconds", "Time to apply what discovery told of the services.");
        let updates = updates.buckets(vec![0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 1.0]);
        let counters = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let metrics = Self {
            requests: counters("http_requests_total", "HTTP requests answered, by route.", answer)?,
            durations: HistogramVec::new(durations.buckets(BUCKETS.into()), answer)?,
            service_in_flight: IntGaugeVec::new(
                Opts::new("gateway_upstream_requests_in_flight", "Requests that endpoints of a service are handling."),
                &["service"],
            )?,
            retries: counters(
                "gateway_upstream_retries_total",
                "Requests that were sent once more, to another endpoint where there was one.",
                &["service"],
            )?,
            ejections: counters(
                "gateway_upstream_ejections_total",
                "How often an endpoint was left out because its requests failed.",
                &["service"],
            )?,
            errors: counters(
                "gateway_upstream_errors_total",
                "Requests that an endpoint did not answer, by what went wrong.",
                &["service", "kind"],
            )?,
            in_flight: IntGauge::new("http_requests_in_flight", "HTTP requests being handled.")?,
            shed: IntCounter::new("gateway_requests_shed_total", "Requests refused because too many were in flight.")?,
            log_dropped: IntCounter::new(
                "gateway_access_log_dropped_total",
                "Lines of the access log that were dropped because they could not be written as fast.",
            )?,
            routes: IntGauge::new("gateway_routes", "Path prefixes that have a service.")?,
            updates: Histogram::with_opts(updates)?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.durations.clone()))?;
        registry.register(Box::new(metrics.service_in_flight.clone()))?;
        registry.register(Box::new(metrics.retries.clone()))?;
        registry.register(Box::new(metrics.ejections.clone()))?;
        registry.register(Box::new(metrics.errors.clone()))?;
        registry.register(Box::new(metrics.in_flight.clone()))?;
        registry.register(Box::new(metrics.shed.clone()))?;
        registry.register(Box::new(metrics.log_dropped.clone()))?;
        registry.register(Box::new(metrics.routes.clone()))?;
        registry.register(Box::new(metrics.updates.clone()))?;
        Ok(metrics)
    }

    /// Those of a route, from now until they are retired.
    pub(crate) fn route(&self, service: &str, route: &str) -> RouteMetrics {
        RouteMetrics {
            all: self.clone(),
            service: service.into(),
            route: route.into(),
            methods: Default::default(),
            retired: AtomicBool::new(false),
        }
    }

    /// Those of a service, from now until they are retired.
    pub(crate) fn service(&self, service: &str) -> ServiceMetrics {
        let label = &[service];
        ServiceMetrics {
            all: self.clone(),
            service: service.into(),
            in_flight: self.service_in_flight.with_label_values(label),
            retries: self.retries.with_label_values(label),
            ejections: self.ejections.with_label_values(label),
            errors: UpstreamError::ALL.map(|kind| self.errors.with_label_values(&[service, kind.label()])),
        }
    }
}

impl RouteMetrics {
    /// Counts an answer.
    pub(crate) fn answered(&self, method: &Method, status: StatusCode, duration: Duration) {
        if self.retired.load(Ordering::Relaxed) {
            return;
        }
        let method = METHODS.iter().position(|known| known == method).unwrap_or(METHODS.len());
        let status = Some(status).filter(|status| status.as_u16() < 600);
        let mut next = &self.methods[method];
        let answers = loop {
            let answers = next.get_or_init(|| Box::new(self.answers(method, status)));
            if answers.status == status {
                break answers;
            }
            next = &answers.next;
        };
        answers.count.inc();
        answers.durations.observe(duration.as_secs_f64());
    }

    fn answers(&self, method: usize, status: Status) -> Answers {
        let labels = &self.labels(method, &status);
        let (count, durations) =
            (self.all.requests.with_label_values(labels), self.all.durations.with_label_values(labels));
        Answers { status, count, durations, next: OnceLock::new() }
    }

    fn labels<'a>(&'a self, method: usize, status: &'a Status) -> [&'a str; 4] {
        let status = status.as_ref().map_or("other", StatusCode::as_str);
        [&self.service, &self.route, method_label(method), status]
    }

    /// Shows them no longer: the route is gone. Requests that are still in flight are not counted.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        for (method, first) in self.methods.iter().enumerate() {
            for answers in std::iter::successors(first.get(), |answers| answers.next.get()) {
                let labels = &self.labels(method, &answers.status);
                // It is there: it was seen.
                let _ = self.all.requests.remove_label_values(labels);
                let _ = self.all.durations.remove_label_values(labels);
            }
        }
    }
}

impl ServiceMetrics {
    /// Counts a request that an endpoint did not answer.
    pub(crate) fn failed(&self, kind: UpstreamError) {
        self.errors[kind as usize].inc();
    }
}

impl ServiceMetrics {
    /// Shows them no longer: the service is gone.
    pub(crate) fn retire(&self) {
        let label = &[&*self.service];
        let _ = self.all.service_in_flight.remove_label_values(label);
        let _ = self.all.retries.remove_label_values(label);
        let _ = self.all.ejections.remove_label_values(label);
        for kind in UpstreamError::ALL {
            let _ = self.all.errors.remove_label_values(&[&self.service, kind.label()]);
        }
    }
}

fn method_label(index: usize) -> &'static str {
    const LABELS: [&str; METHODS.len()] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    LABELS.get(index).copied().unwrap_or("OTHER")
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    fn text(registry: &Registry) -> String {
        TextEncoder::new().encode_to_string(&registry.gather()).expect("text")
    }

    #[test]
    fn requests_are_counted_under_bounded_labels() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).expect("metrics");
        let route = metrics.route("users", "/users");
        let brew = Method::from_bytes(b"BREW").expect("a method");
        for (method, status) in [(Method::GET, 200), (Method::GET, 200), (Method::TRACE, 599), (brew, 999)] {
            route.answered(&method, StatusCode::from_u16(status).expect("a status"), Duration::from_millis(3));
        }
        let text = text(&registry);
        for line in [
            r#"http_requests_total{method="GET",route="/users",service="users",status="200"} 2"#,
            r#"http_requests_total{method="OTHER",route="/users",service="users",status="599"} 1"#,
            r#"http_requests_total{method="OTHER",route="/users",service="users",status="other"} 1"#,
            r#"http_request_duration_seconds_bucket{method="GET",route="/users",service="users",status="200",le="0.005"} 2"#,
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }

    #[test]
    fn what_is_gone_is_not_shown() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).expect("metrics");
        let (route, service) = (metrics.route("users", "/users"), metrics.service("users"));
        route.answered(&Method::GET, StatusCode::OK, Duration::ZERO);
        route.answered(&Method::GET, StatusCode::from_u16(999).expect("a status"), Duration::ZERO);
        service.failed(UpstreamError::Reset);
        assert!(text(&registry).contains(r#"service="users""#));
        route.retire();
        service.retire();
        route.answered(&Method::GET, StatusCode::CREATED, Duration::ZERO);
        let text = text(&registry);
        assert!(!text.contains(r#"service="users""#), "{text}");
    }
}

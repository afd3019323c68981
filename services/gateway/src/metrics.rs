//! The gateway's metrics.
//!
//! The series of a request are looked up when its route is created, or for the first request with its method and
//! status, and not for every request. The number of series is bounded: labels are configured routes, standard methods,
//! and statuses up to 599.

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

/// The methods with a label of their own. All others are `OTHER`.
const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

/// Why a request to an endpoint failed; a label of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpstreamError {
    /// No connection could be established.
    Connect,
    /// The gateway had no port, file descriptor or memory left for a connection.
    Local,
    /// The response head, or the complete response, did not arrive in time.
    Timeout,
    /// The connection was closed before the end of the response.
    Reset,
    /// The response was not valid HTTP.
    Protocol,
    /// The endpoint responded with 502 or 504.
    Gateway,
}

impl UpstreamError {
    const ALL: [Self; 6] = [Self::Connect, Self::Local, Self::Timeout, Self::Reset, Self::Protocol, Self::Gateway];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Local => "local",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::Gateway => "gateway",
        }
    }
}

/// All metrics of the gateway.
#[derive(Clone)]
pub(crate) struct Metrics {
    requests: IntCounterVec,
    durations: HistogramVec,
    service_in_flight: IntGaugeVec,
    retries: IntCounterVec,
    ejections: IntCounterVec,
    errors: IntCounterVec,
    pub(crate) in_flight: IntGauge,
    pub(crate) shed: IntCounter,
    pub(crate) log_dropped: IntCounter,
    pub(crate) routes: IntGauge,
    pub(crate) route_updates: Histogram,
}

/// The metrics of a route.
pub(crate) struct RouteMetrics {
    all: Metrics,
    service: Box<str>,
    route: Box<str>,
    /// For each method a linked list of the statuses seen so far, which are few.
    methods: [OnceLock<Box<ResponseSeries>>; METHODS.len() + 1],
    retired: AtomicBool,
}

/// The series of responses with one method and status.
struct ResponseSeries {
    status: Status,
    count: IntCounter,
    durations: Histogram,
    next: OnceLock<Box<Self>>,
}

/// A status as a label; `None` if it is above 599.
type Status = Option<StatusCode>;

/// The metrics of a service.
pub(crate) struct ServiceMetrics {
    all: Metrics,
    service: Box<str>,
    /// Requests whose response is not complete.
    pub(crate) in_flight: IntGauge,
    pub(crate) retries: IntCounter,
    pub(crate) ejections: IntCounter,
    errors: [IntCounter; UpstreamError::ALL.len()],
}

impl Metrics {
    /// # Errors
    /// Returns an error if a name is already registered.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let labels = &["service", "route", "method", "status"];
        let durations = HistogramOpts::new(
            "http_request_duration_seconds",
            "Time from the request head to the end of the response, by route.",
        );
        let route_updates =
            HistogramOpts::new("gateway_route_update_seconds", "Time to apply a list of services from discovery.");
        let route_updates = route_updates.buckets(vec![0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 1.0]);
        let counters = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let metrics = Self {
            requests: counters("http_requests_total", "HTTP requests served, by route.", labels)?,
            durations: HistogramVec::new(durations.buckets(BUCKETS.into()), labels)?,
            service_in_flight: IntGaugeVec::new(
                Opts::new("gateway_upstream_requests_in_flight", "Requests in flight to the endpoints of a service."),
                &["service"],
            )?,
            retries: counters(
                "gateway_upstream_retries_total",
                "Requests that were sent again, to another endpoint if there was one.",
                &["service"],
            )?,
            ejections: counters(
                "gateway_upstream_ejections_total",
                "Ejections of endpoints because their requests failed.",
                &["service"],
            )?,
            errors: counters(
                "gateway_upstream_errors_total",
                "Requests to endpoints that failed, by kind of failure.",
                &["service", "kind"],
            )?,
            in_flight: IntGauge::new("http_requests_in_flight", "HTTP requests in flight.")?,
            shed: IntCounter::new("gateway_requests_shed_total", "Requests refused because too many were in flight.")?,
            log_dropped: IntCounter::new(
                "gateway_access_log_dropped_total",
                "Access log lines dropped because they could not be written fast enough.",
            )?,
            routes: IntGauge::new("gateway_routes", "Path prefixes that are routed to a service.")?,
            route_updates: Histogram::with_opts(route_updates)?,
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
        registry.register(Box::new(metrics.route_updates.clone()))?;
        Ok(metrics)
    }

    /// Creates the metrics of a route, which are exposed until they are retired.
    pub(crate) fn route(&self, service: &str, route: &str) -> RouteMetrics {
        RouteMetrics {
            all: self.clone(),
            service: service.into(),
            route: route.into(),
            methods: Default::default(),
            retired: AtomicBool::new(false),
        }
    }

    /// Creates the metrics of a service, which are exposed until they are retired.
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
    /// Records a response.
    pub(crate) fn observe(&self, method: &Method, status: StatusCode, duration: Duration) {
        if self.retired.load(Ordering::Relaxed) {
            return;
        }
        let method = METHODS.iter().position(|known| known == method).unwrap_or(METHODS.len());
        let status = Some(status).filter(|status| status.as_u16() < 600);
        let mut next = &self.methods[method];
        let series = loop {
            let series = next.get_or_init(|| Box::new(self.series(method, status)));
            if series.status == status {
                break series;
            }
            next = &series.next;
        };
        series.count.inc();
        series.durations.observe(duration.as_secs_f64());
    }

    fn series(&self, method: usize, status: Status) -> ResponseSeries {
        let labels = &self.labels(method, &status);
        let (count, durations) =
            (self.all.requests.with_label_values(labels), self.all.durations.with_label_values(labels));
        ResponseSeries { status, count, durations, next: OnceLock::new() }
    }

    fn labels<'a>(&'a self, method: usize, status: &'a Status) -> [&'a str; 4] {
        let status = status.as_ref().map_or("other", StatusCode::as_str);
        [&self.service, &self.route, method_label(method), status]
    }

    /// Removes the series, because the route is gone. Requests still in flight are not counted.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        for (method, first) in self.methods.iter().enumerate() {
            for series in std::iter::successors(first.get(), |series| series.next.get()) {
                let labels = &self.labels(method, &series.status);
                // This cannot fail, as the series exists.
                let _ = self.all.requests.remove_label_values(labels);
                let _ = self.all.durations.remove_label_values(labels);
            }
        }
    }
}

impl ServiceMetrics {
    pub(crate) fn count_error(&self, kind: UpstreamError) {
        self.errors[kind as usize].inc();
    }

    /// Removes the series, because the service is gone.
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
    fn labels_are_bounded() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).expect("metrics");
        let route = metrics.route("users", "/users");
        let brew = Method::from_bytes(b"BREW").expect("a method");
        for (method, status) in [(Method::GET, 200), (Method::GET, 200), (Method::TRACE, 599), (brew, 999)] {
            route.observe(&method, StatusCode::from_u16(status).expect("a status"), Duration::from_millis(3));
        }
        let text = text(&registry);
        for line in [
            r#"http_requests_total{method="GET",route="/users",service="users",status="200"} 2"#,
            r#"http_requests_total{method="OTHER",route="/users",service="users",status="599"} 1"#,
            r#"http_requests_total{method="OTHER",route="/users",service="users",status="other"} 1"#,
            r#"http_request_duration_seconds_bucket{method="GET",route="/users",service="users",status="200",le="0.005"} 2"#,
        ] {
            assert!(text.contains(line), "{line} is missing in {text}");
        }
    }

    #[test]
    fn retired_series_are_removed() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).expect("metrics");
        let (route, service) = (metrics.route("users", "/users"), metrics.service("users"));
        route.observe(&Method::GET, StatusCode::OK, Duration::ZERO);
        route.observe(&Method::GET, StatusCode::from_u16(999).expect("a status"), Duration::ZERO);
        service.count_error(UpstreamError::Reset);
        assert!(text(&registry).contains(r#"service="users""#));
        route.retire();
        service.retire();
        route.observe(&Method::GET, StatusCode::CREATED, Duration::ZERO);
        let text = text(&registry);
        assert!(!text.contains(r#"service="users""#), "{text}");
    }
}

//! Metrics of the HTTP requests that a service handles. No label holds an id.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};
use runtime::metrics::BUCKETS;

/// The metrics of a service's requests.
pub(crate) struct Metrics {
    requests: IntCounterVec,
    durations: HistogramVec,
    /// Requests in flight: those being handled, and those whose response is not sent yet.
    pub(super) in_flight: IntGauge,
    /// Requests being handled.
    pub(super) handling: IntGauge,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// Returns an error if two metrics share a name, which is a bug.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let labels = &["method", "route", "status"];
        let requests = IntCounterVec::new(Opts::new("http_requests_total", "HTTP requests handled."), labels)?;
        let options = HistogramOpts::new("http_request_duration_seconds", "Time to handle an HTTP request.");
        let durations = HistogramVec::new(options.buckets(BUCKETS.into()), labels)?;
        let in_flight = IntGauge::new("http_requests_in_flight", "HTTP requests whose response is not sent yet.")?;
        // Not registered: it is only compared with a limit.
        let handling = IntGauge::new("http_requests_handling", "HTTP requests being handled.")?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(durations.clone()))?;
        registry.register(Box::new(in_flight.clone()))?;
        Ok(Self { requests, durations, in_flight, handling })
    }

    /// Counts a request that has its response.
    pub(super) fn responded(&self, method: &str, route: &str, status: &str, duration: Duration) {
        let labels = &[method, route, status];
        self.requests.with_label_values(labels).inc();
        self.durations.with_label_values(labels).observe(duration.as_secs_f64());
    }
}

//! Metrics in the Prometheus text format. No label holds an id.

use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    core::{Collector, Desc},
    process_collector::ProcessCollector,
    proto::MetricFamily,
};

/// Upper bounds of the latency buckets, in seconds.
pub const BUCKETS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The metrics of one service.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
    /// Requests being handled now.
    pub(crate) in_flight: IntGauge,
}

impl Metrics {
    /// Registers what every service has.
    ///
    /// # Errors
    /// Where two metrics have one name: a mistake in the code.
    pub(crate) fn new(version: &str) -> Result<Self, prometheus::Error> {
        let registry = registry(version)?;
        let labels = &["method", "route", "status"];
        let requests = IntCounterVec::new(Opts::new("http_requests_total", "HTTP requests answered."), labels)?;
        let options = HistogramOpts::new("http_request_duration_seconds", "Time to answer an HTTP request.");
        let durations = HistogramVec::new(options.buckets(BUCKETS.into()), labels)?;
        let in_flight = IntGauge::new("http_requests_in_flight", "HTTP requests being handled.")?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(durations.clone()))?;
        registry.register(Box::new(in_flight.clone()))?;
        Ok(Self { registry, requests, durations, in_flight })
    }

    /// Where a service registers metrics of its own, and what the admin port shows.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Counts an answered request.
    pub(crate) fn answered(&self, method: &str, route: &str, status: &str, duration: Duration) {
        let labels = &[method, route, status];
        self.requests.with_label_values(labels).inc();
        self.durations.with_label_values(labels).observe(duration.as_secs_f64());
    }

    /// Shows the pool's connections, those idle and those in use, and returns the histogram of waits for one.
    pub(crate) fn watch_pool(&self, count: impl Fn() -> (usize, usize) + Send + Sync + 'static) -> Histogram {
        let options = HistogramOpts::new("db_pool_wait_seconds", "Time a task waited for a database connection.");
        let wait = Histogram::with_opts(options.buckets(BUCKETS.into())).expect("the options are constant");
        let connections = Opts::new("db_pool_connections", "Database connections of the pool.");
        let connections = IntGaugeVec::new(connections, &["state"]).expect("the options are constant");
        self.registry.register(Box::new(wait.clone())).expect("a service has one pool");
        self.registry
            .register(Box::new(PoolCollector { count: Box::new(count), connections }))
            .expect("a service has one pool");
        wait
    }
}

/// A registry with what every process has: its build, and its use of memory, CPU and files.
///
/// # Errors
/// Where two metrics have one name: a mistake in the code.
pub fn registry(version: &str) -> Result<Registry, prometheus::Error> {
    let registry = Registry::new();
    let build = IntGaugeVec::new(Opts::new("build_info", "The running build; always 1."), &["version", "revision"])?;
    build.with_label_values(&[version, option_env!("HEDGEROW_REVISION").unwrap_or("unknown")]).set(1);
    registry.register(Box::new(build))?;
    registry.register(Box::new(ProcessCollector::for_self()))?;
    Ok(registry)
}

/// The metrics as text, and its media type.
pub(crate) fn render(registry: &Registry) -> Result<(String, String), prometheus::Error> {
    let encoder = TextEncoder::new();
    Ok((encoder.encode_to_string(&registry.gather())?, encoder.format_type().to_owned()))
}

/// Reads the state of the pool when it is asked for.
struct PoolCollector {
    count: Box<dyn Fn() -> (usize, usize) + Send + Sync>,
    connections: IntGaugeVec,
}

impl Collector for PoolCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.connections.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (idle, in_use) = (self.count)();
        for (state, count) in [("idle", idle), ("in_use", in_use)] {
            self.connections.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.connections.collect()
    }
}

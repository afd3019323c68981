//! Metrics in the Prometheus text format. No label holds an id.

use prometheus::{Encoder, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, process_collector::ProcessCollector};

/// Upper bounds of the latency buckets, in seconds.
pub const BUCKETS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Creates a registry with the metrics of every process: its build, and its use of memory, CPU and files.
///
/// # Errors
/// Returns an error if two metrics share a name, which is a bug.
pub fn registry(version: &str) -> Result<Registry, prometheus::Error> {
    let registry = Registry::new();
    let build = IntGaugeVec::new(Opts::new("build_info", "The running build; always 1."), &["version", "revision"])?;
    // The image knows the revision. If it were compiled in, each commit would have other binaries.
    let revision = std::env::var("HEDGEROW_REVISION").unwrap_or_else(|_| "unknown".to_owned());
    build.with_label_values(&[version, &revision]).set(1);
    registry.register(Box::new(build))?;
    registry.register(Box::new(ProcessCollector::for_self()))?;
    Ok(registry)
}

/// Renders the metrics. Returns the text and its media type.
pub(crate) fn render(registry: &Registry) -> Result<(String, String), prometheus::Error> {
    let encoder = TextEncoder::new();
    Ok((encoder.encode_to_string(&registry.gather())?, encoder.format_type().to_owned()))
}

/// Counts a request as in flight for as long as this value lives. It is dropped with the request's future, so a request
/// whose client disconnects is not counted forever.
pub struct InFlight(IntGauge);

impl InFlight {
    /// Counts one more request in flight.
    #[must_use]
    pub fn enter(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

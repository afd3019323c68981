//! Metrics of gRPC calls, in the style of the HTTP metrics.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};
use runtime::metrics::BUCKETS;
use tonic::Code;

use super::call::{self, Method};

/// Counts and durations of calls in one direction.
#[derive(Clone)]
pub(super) struct Calls {
    requests: IntCounterVec,
    durations: HistogramVec,
}

impl Calls {
    fn new(registry: &Registry, direction: &str, [count, time]: [&str; 2]) -> Result<Self, prometheus::Error> {
        let labels = &["service", "method", "code"];
        let name = format!("grpc_{direction}_requests_total");
        let requests = IntCounterVec::new(Opts::new(name, count), labels)?;
        let name = format!("grpc_{direction}_request_duration_seconds");
        let options = HistogramOpts::new(name, time);
        let durations = HistogramVec::new(options.buckets(BUCKETS.into()), labels)?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(durations.clone()))?;
        Ok(Self { requests, durations })
    }

    /// Counts a call that has ended.
    pub(super) fn ended(&self, method: &Method, code: Code, duration: Duration) {
        let labels = &[&*method.service, &*method.name, call::name(code)];
        self.requests.with_label_values(labels).inc();
        self.durations.with_label_values(labels).observe(duration.as_secs_f64());
    }
}

/// The metrics of the gRPC server.
#[derive(Clone)]
pub(super) struct ServerMetrics {
    pub(super) calls: Calls,
    /// Calls in flight: those being handled, and those whose response is not sent yet.
    pub(super) in_flight: IntGauge,
    /// Calls being handled.
    pub(super) handling: IntGauge,
}

impl ServerMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let calls = Calls::new(registry, "server", ["gRPC calls handled.", "Time to handle a gRPC call."])?;
        let help = "gRPC calls whose response is not sent yet.";
        let in_flight = IntGauge::new("grpc_server_requests_in_flight", help)?;
        // Not registered: it is only compared with a limit.
        let handling = IntGauge::new("grpc_server_requests_handling", "gRPC calls being handled.")?;
        registry.register(Box::new(in_flight.clone()))?;
        Ok(Self { calls, in_flight, handling })
    }
}

/// The metrics of the gRPC clients.
#[derive(Clone)]
pub(super) struct ClientMetrics {
    pub(super) calls: Calls,
    retries: IntCounterVec,
}

impl ClientMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let count = "gRPC calls made; a retry is not counted separately.";
        let time = "Time of an outgoing gRPC call, including its retry.";
        let calls = Calls::new(registry, "client", [count, time])?;
        let help = "gRPC calls that were retried.";
        let retries = IntCounterVec::new(Opts::new("grpc_client_retries_total", help), &["service", "method"])?;
        registry.register(Box::new(retries.clone()))?;
        Ok(Self { calls, retries })
    }

    /// Counts a call that is retried.
    pub(super) fn retried(&self, method: &Method) {
        self.retries.with_label_values(&[&*method.service, &*method.name]).inc();
    }
}

//! Logs on standard output, traces to an OpenTelemetry collector.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use anyhow::{Context, ensure};
use http::Uri;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tracing_subscriber::{EnvFilter, Layer, filter::LevelFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// How long a collector may take for the last traces of a process that ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The traces, where they are exported.
pub struct Telemetry(Option<SdkTracerProvider>);

impl Telemetry {
    /// Sends what is left, if it can within this time.
    pub fn finish(self, limit: Duration) {
        let sent = self.0.map(|provider| provider.shutdown_with_timeout(limit.min(FLUSH_TIMEOUT)));
        if let Some(Err(error)) = sent {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// Starts logging, and tracing where `endpoint` is given.
///
/// # Errors
/// Where the filter or the endpoint makes no sense.
pub fn start(name: &'static str, filter: &str, endpoint: Option<&str>) -> anyhow::Result<Telemetry> {
    let filter = log_filter(filter).context("LOG_LEVEL is not a level or filter")?;
    // JSON for machines, text for people.
    let logs = if io::stdout().is_terminal() {
        tracing_subscriber::fmt::layer().with_target(false).compact().boxed()
    } else {
        tracing_subscriber::fmt::layer().json().flatten_event(true).with_span_list(false).boxed()
    };
    // Empty counts as left out, by the OpenTelemetry specification.
    let provider =
        endpoint.filter(|endpoint| !endpoint.is_empty()).map(|endpoint| provider(name, endpoint)).transpose()?;
    let traces = provider.as_ref().map(|provider| {
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        // The exporter's own requests must not make spans.
        let ours = EnvFilter::new(
            "info,chassis::observe=debug,chassis::grpc=debug,hyper=off,hyper_util=off,reqwest=off,h2=off,opentelemetry=off",
        );
        tracing_opentelemetry::layer().with_tracer(provider.tracer(name)).with_filter(ours)
    });
    tracing_subscriber::registry().with(logs.with_filter(filter)).with(traces).init();
    Ok(Telemetry(provider))
}

/// Parses `LOG_LEVEL`. A word that is no level, such as `verbose`, is refused: it would count as a target, and silence
/// everything else.
fn log_filter(text: &str) -> anyhow::Result<EnvFilter> {
    for directive in text.split(',').filter(|directive| !directive.contains(['=', '['])) {
        let level = directive.trim();
        ensure!(!level.is_empty() && level.parse::<LevelFilter>().is_ok(), "\"{level}\" is no level");
    }
    Ok(EnvFilter::try_new(text)?)
}

fn provider(name: &'static str, endpoint: &str) -> anyhow::Result<SdkTracerProvider> {
    let is_url = endpoint.parse::<Uri>().is_ok_and(|url| matches!(url.scheme_str(), Some("http" | "https")));
    ensure!(is_url, "OTEL_EXPORTER_OTLP_ENDPOINT must be a URL such as http://collector:4318");
    // The variable names the collector; traces have their own path below it, by the OTLP specification.
    let traces = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(traces)
        .build()
        .context("OTEL_EXPORTER_OTLP_ENDPOINT cannot be used")?;
    let resource = Resource::builder().with_service_name(name).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

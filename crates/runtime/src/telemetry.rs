//! Logs to standard output and traces to an OpenTelemetry collector.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use anyhow::{Context, ensure};
use http::Uri;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{
    request::{CALL_TARGET, REQUEST_TARGET},
    stdout::LossyStdout,
};

/// How long the export of the last traces may take when the process exits.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The exporter of traces, if there is one.
pub struct Telemetry(Option<SdkTracerProvider>);

impl Telemetry {
    /// Exports the remaining traces, within this time.
    pub fn finish(self, limit: Duration) {
        let sent = self.0.map(|provider| provider.shutdown_with_timeout(limit.min(FLUSH_TIMEOUT)));
        if let Some(Err(error)) = sent {
            tracing::warn!(%error, "cannot export the last traces");
        }
    }
}

/// Starts logging and, if there is an `endpoint`, tracing.
///
/// # Errors
/// Returns an error if the filter or the endpoint is invalid.
pub fn start(name: &'static str, filter: &str, endpoint: Option<&str>) -> anyhow::Result<Telemetry> {
    let filter = log_filter(filter).context("LOG_LEVEL is not a level or filter")?;
    // JSON for machines, text for people.
    let logs = if io::stdout().is_terminal() {
        tracing_subscriber::fmt::layer().with_writer(|| LossyStdout).with_target(false).compact().boxed()
    } else {
        tracing_subscriber::fmt::layer()
            .with_writer(|| LossyStdout)
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .boxed()
    };
    // An empty value counts as unset (OpenTelemetry specification).
    let provider =
        endpoint.filter(|endpoint| !endpoint.is_empty()).map(|endpoint| provider(name, endpoint)).transpose()?;
    let traces = provider.as_ref().map(|provider| {
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        tracing_opentelemetry::layer().with_tracer(provider.tracer(name)).with_filter(span_filter())
    });
    tracing_subscriber::registry().with(logs.with_filter(filter)).with(traces).init();
    Ok(Telemetry(provider))
}

/// Parses `LOG_LEVEL`. A word that is not a level, such as `verbose`, is rejected: it would count as a target
/// and silence everything else.
fn log_filter(text: &str) -> anyhow::Result<EnvFilter> {
    for directive in text.split(',').filter(|directive| !directive.contains(['=', '['])) {
        let level = directive.trim();
        ensure!(!level.is_empty() && level.parse::<LevelFilter>().is_ok(), "\"{level}\" is not a level");
    }
    Ok(EnvFilter::try_new(text)?)
}

/// Selects the spans that are exported: those of requests and calls, by their explicit targets, and of other code those
/// of level info. The exporter's own requests must not create spans.
fn span_filter() -> Targets {
    let exporter = ["h2", "hyper", "hyper_util", "opentelemetry", "reqwest"];
    Targets::new()
        .with_default(LevelFilter::INFO)
        .with_target(REQUEST_TARGET, LevelFilter::DEBUG)
        .with_target(CALL_TARGET, LevelFilter::DEBUG)
        .with_targets(exporter.map(|target| (target, LevelFilter::OFF)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_sdk::{
        error::OTelSdkResult,
        trace::{SimpleSpanProcessor, SpanData, SpanExporter},
    };
    use std::sync::{Arc, Mutex};

    /// The names of the spans that were exported.
    #[derive(Debug, Clone, Default)]
    struct Exported(Arc<Mutex<Vec<String>>>);

    impl SpanExporter for Exported {
        async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().expect("not poisoned").extend(spans.into_iter().map(|span| span.name.into_owned()));
            Ok(())
        }
    }

    /// This module's path is not one of the targets.
    mod elsewhere {
        pub(super) fn make_spans() {
            drop(tracing::debug_span!(target: crate::request::REQUEST_TARGET, "request"));
            drop(tracing::debug_span!(target: crate::request::CALL_TARGET, "call"));
            drop(tracing::debug_span!("detail"));
            drop(tracing::error_span!(target: "hyper_util::client", "exporter"));
        }
    }

    #[test]
    fn spans_are_exported_by_target_whatever_module_creates_them() {
        let exported = Exported::default();
        let processor = SimpleSpanProcessor::new(exported.clone());
        let provider = SdkTracerProvider::builder().with_span_processor(processor).build();
        let traces = tracing_opentelemetry::layer().with_tracer(provider.tracer("test")).with_filter(span_filter());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(traces), elsewhere::make_spans);
        assert_eq!(*exported.0.lock().expect("not poisoned"), ["request", "call"]);
    }
}

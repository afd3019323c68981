//! An OpenTelemetry collector that stores the spans it receives.

use std::net::SocketAddr;

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message;
use tokio::{net::TcpListener, sync::mpsc};

/// A running collector.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    spans: mpsc::UnboundedReceiver<(String, Span)>,
}

impl Collector {
    /// Starts a collector on a free port.
    ///
    /// # Panics
    /// Panics if it does not start.
    pub async fn start() -> Self {
        let (sender, spans) = mpsc::unbounded_channel();
        let app = Router::new().route("/v1/traces", post(collect)).with_state(sender);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async { axum::serve(listener, app).await });
        Self { address, spans }
    }

    /// Returns the value for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the spans received since the last call, each with the name of its service.
    pub fn spans(&mut self) -> Vec<(String, Span)> {
        std::iter::from_fn(|| self.spans.try_recv().ok()).collect()
    }
}

async fn collect(State(sender): State<mpsc::UnboundedSender<(String, Span)>>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    for part in request.resource_spans {
        let resource = part.resource.unwrap_or_default();
        let Value::StringValue(service) = attribute(&resource.attributes, "service.name") else {
            return StatusCode::BAD_REQUEST;
        };
        for span in part.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            let _ = sender.send((service.clone(), span));
        }
    }
    StatusCode::OK
}

/// Returns the value of an attribute.
///
/// # Panics
/// Panics if there is no such attribute.
#[must_use]
pub fn attribute(attributes: &[KeyValue], key: &str) -> Value {
    let value = attributes.iter().find(|attribute| attribute.key == key).and_then(|found| found.value.clone()?.value);
    value.unwrap_or_else(|| panic!("no attribute {key}"))
}

/// Creates the value of a text attribute.
#[must_use]
pub fn string(text: &str) -> Value {
    Value::StringValue(text.to_owned())
}

/// Decodes hexadecimal text.
///
/// # Panics
/// Panics if the text is not hexadecimal.
#[must_use]
pub fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("ASCII"));
    digits.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal")).collect()
}

//! The spans of requests, and the propagation of traces in headers.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use tracing::{Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::context::{TRACEPARENT, TRACESTATE};

/// The target of the spans of HTTP requests. Spans are exported by their targets, whatever module creates them.
pub const REQUEST_TARGET: &str = "hedgerow::request";

/// The target of the spans of gRPC calls.
pub const CALL_TARGET: &str = "hedgerow::call";

/// How much of a path is logged and traced, in bytes.
const MAX_PATH: usize = 1024;

/// Returns a path as it is logged and traced: a long one is cut off and ends in `…`. A path that a client sends over
/// and over costs it a few bytes over HTTP/2, and would fill the log.
#[must_use]
pub fn shown_path(path: &str) -> Cow<'_, str> {
    if path.len() <= MAX_PATH {
        return path.into();
    }
    format!("{}…", &path[..path.floor_char_boundary(MAX_PATH)]).into()
}

/// Returns the name of a method as a label. Methods that a client invents would make labels without bound.
#[must_use]
pub fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}

/// Creates the span of a request, named as OpenTelemetry's semantic conventions require, as a child of the caller's
/// span in `traceparent`. Its level is debug, so it costs nothing unless traces or detailed logs are enabled.
#[must_use]
pub fn server_span(
    path: &str,
    headers: &HeaderMap,
    method: &'static str,
    route: &str,
    request_id: &HeaderValue,
) -> Span {
    let span = tracing::debug_span!(
        target: REQUEST_TARGET,
        "request",
        otel.name = format_args!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = field::Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = field::Empty,
        url.path = &*shown_path(path),
        request_id = request_id.to_str().unwrap_or_default(),
    );
    set_parent(&span, headers);
    span
}

/// Creates the span of a request that a proxy forwards. If traces are exported, `traceparent` then names this span. If
/// not, the client's `traceparent` is kept, or names a new trace if there was none.
pub fn relay_span(
    path: &str,
    headers: &mut HeaderMap,
    method: &'static str,
    route: &str,
    request_id: &HeaderValue,
) -> Span {
    let span = server_span(path, headers, method, route, request_id);
    if !span.is_disabled() {
        inject(&span, headers);
    }
    if !headers.get(TRACEPARENT).is_some_and(is_traceparent) {
        headers.insert(TRACEPARENT, new_trace());
        headers.remove(TRACESTATE);
    }
    span
}

/// Records the status of the response in the span of its request.
pub fn record_status(span: &Span, status: StatusCode) {
    // As an i64: tracing-opentelemetry turns unsigned numbers into strings.
    span.record("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
}

/// Sets the trace headers of a call, so that they name the span in which it is made.
pub fn inject(span: &Span, headers: &mut HeaderMap) {
    opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.inject_context(&span.context(), &mut HeaderInjector(headers));
    });
}

/// Makes a span a child of the one that the `traceparent` of its request names.
pub fn set_parent(span: &Span, headers: &HeaderMap) {
    if !span.is_disabled() && headers.contains_key(TRACEPARENT) {
        let parent =
            opentelemetry::global::get_text_map_propagator(|propagator| propagator.extract(&HeaderExtractor(headers)));
        // It fails if traces are not exported; then no parent is needed.
        let _ = span.set_parent(parent);
    }
}

/// Creates a `traceparent` for a new trace. It is marked as sampled: the service decides, as for a request without one.
fn new_trace() -> HeaderValue {
    // Neither id may be zero (W3C Trace Context, section 3.2.2); random ids are not.
    let ids: [u8; 24] = rand::random();
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
    let digits = |byte: u8| [byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]);
    for (index, byte) in ids.into_iter().enumerate() {
        let at = if index < 16 { 3 + 2 * index } else { 4 + 2 * index };
        text[at..at + 2].copy_from_slice(&digits(byte));
    }
    HeaderValue::from_maybe_shared(Bytes::from_owner(text)).unwrap_or(HeaderValue::from_static("unknown"))
}

/// Returns whether the value names a trace (W3C Trace Context, section 3.2).
fn is_traceparent(value: &HeaderValue) -> bool {
    let is_hex = |text: &[u8]| text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |text: &[u8]| text.iter().all(|byte| *byte == b'0');
    let bytes = value.as_bytes();
    if bytes.len() < 55 || (bytes.len() > 55 && (bytes.starts_with(b"00") || bytes[55] != b'-')) {
        return false;
    }
    let dashes = bytes[2] == b'-' && bytes[35] == b'-' && bytes[52] == b'-';
    let (version, trace, parent, flags) = (&bytes[..2], &bytes[3..35], &bytes[36..52], &bytes[53..55]);
    let all_hex = [version, trace, parent, flags].into_iter().all(is_hex);
    dashes && all_hex && version != b"ff" && !is_zero(trace) && !is_zero(parent)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use proptest::prelude::*;
    use tracing_subscriber::fmt::format::FmtSpan;

    use super::*;

    fn is_valid(text: &str) -> bool {
        HeaderValue::from_str(text).is_ok_and(|value| is_traceparent(&value))
    }

    proptest! {
        #[test]
        fn a_well_formed_traceparent_is_accepted(
            version in "0[0-9a-f]",
            trace in "[0-9a-f]{31}[1-9a-f]",
            parent in "[1-9a-f][0-9a-f]{15}",
            flags in "[0-9a-f]{2}",
            extension in "-[!-~]{0,20}",
        ) {
            let text = format!("{version}-{trace}-{parent}-{flags}");
            prop_assert!(is_valid(&text));
            // Later versions may append fields; version 00 may not.
            prop_assert_eq!(is_valid(&format!("{text}{extension}")), version != "00");
        }

        #[test]
        fn a_traceparent_with_a_wrong_character_is_refused(position in 0..55_usize, character in "[A-Zg-z_. -]") {
            let mut text = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned();
            let is_separator = matches!(position, 2 | 35 | 52) && character == "-";
            text.replace_range(position..=position, &character);
            prop_assert_eq!(is_valid(&text), is_separator);
        }

        #[test]
        fn any_header_value_is_accepted_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let is_long_enough = bytes.len() >= 55;
                prop_assert!(is_long_enough || !is_traceparent(&value));
            }
        }
    }

    #[test]
    fn zero_ids_and_version_ff_are_refused() {
        for text in [
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert!(!is_valid(text), "{text}");
        }
    }

    /// Where a subscriber writes.
    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("a lock").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_span_has_a_long_path_in_part() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_span_events(FmtSpan::NEW)
            .with_writer(move || writer.clone());
        let path = format!("/{}", "é".repeat(5000));
        tracing::subscriber::with_default(subscriber.finish(), || {
            let _ = server_span(&path, &HeaderMap::new(), "GET", "/", &HeaderValue::from_static("id"));
        });
        let written = buffer.0.lock().expect("a lock").clone();
        let written = String::from_utf8(written).expect("text");
        assert!(written.contains("/éééé") && written.contains("é…"), "{written}");
        assert!(written.len() < 2048, "{}", written.len());
    }

    #[test]
    fn a_new_trace_is_a_valid_traceparent() {
        assert!((0..100).all(|_| is_traceparent(&new_trace())));
    }
}

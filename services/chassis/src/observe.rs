//! What happens around every request: its id, its span, its metrics, a limit on how many are in flight and on how
//! long one takes.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use prometheus::IntGauge;
use tokio::time;
use tracing::{Instrument, Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use uuid::Uuid;

use crate::{
    current::{Current, TRACEPARENT, TRACESTATE},
    metrics::Metrics,
    problem::{Cause, Problem},
};

/// How long a request may take, its body included.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Requests in flight beyond this are refused: they would only wait.
pub(crate) const MAX_IN_FLIGHT: i64 = 2048;

/// Time between two lines of the log about refused requests. A metric counts all of them; a line for each would flood
/// the log just when there is too much to do.
const REFUSALS: Duration = Duration::from_secs(1);

/// The header with a request's id, of requests and of answers.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Adds all of this to a service's routes, with problems for a path or method that is not there.
pub(crate) fn layer(routes: Router, metrics: Metrics) -> Router {
    routes
        .fallback(async || Problem::not_found("there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path does not take this method; `Allow` lists those it takes",
            )
        })
        .layer(middleware::from_fn_with_state(Arc::new(metrics), observe))
}

async fn observe(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let in_flight = InFlight::enter(&metrics.in_flight);
    let request_id = request_id(request.headers());
    let method = method_label(request.method());
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("unmatched", MatchedPath::as_str);
    let span = span(request.uri().path(), request.headers(), method, route, &request_id);

    let mut response = if metrics.in_flight.get() > MAX_IN_FLIGHT {
        Problem::unavailable("too many requests are in flight; try again in a moment").into_response()
    } else {
        let is_safe = request.method().is_safe();
        let current = Current::of(&request_id, request.headers());
        answer(current.scope(next.run(request).instrument(span.clone())), is_safe).await
    };

    drop(in_flight);
    let status = response.status();
    // As an i64: tracing-opentelemetry makes text of unsigned numbers.
    span.record("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
        span.in_scope(|| log_failure(&response, method, route, &request_id));
    }
    metrics.answered(method, route, status.as_str(), begun.elapsed());
    response.headers_mut().insert(REQUEST_ID, request_id);
    response
}

/// Runs the handler to its answer; a panic or too long a run has one too.
async fn answer(handler: impl Future<Output = Response>, is_safe: bool) -> Response {
    match time::timeout(REQUEST_TIMEOUT, AssertUnwindSafe(handler).catch_unwind()).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => Problem::of_panic(panic.as_ref()).into_response(),
        Err(_) => {
            let problem =
                if is_safe { Problem::unavailable("the request took too long") } else { Problem::outcome_unknown() };
            problem.caused_by("the request took longer than its limit").into_response()
        }
    }
}

/// The client's own id where it is of a form that is safe to log and pass on, else a new one.
#[must_use]
pub fn request_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers
        .get(REQUEST_ID)
        .filter(|id| (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic));
    given.cloned().unwrap_or_else(|| {
        let mut buffer = Uuid::encode_buffer();
        let id = Uuid::new_v4().hyphenated().encode_lower(&mut buffer);
        HeaderValue::from_str(id).unwrap_or(HeaderValue::from_static("unknown"))
    })
}

/// Methods of the client's own invention would be labels without bound.
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

/// The request's span, named as OpenTelemetry's semantic conventions ask, below the caller's by its `traceparent`.
/// At level debug, so that it costs nothing where neither traces nor a detailed log are asked for.
fn span(path: &str, headers: &HeaderMap, method: &'static str, route: &str, request_id: &HeaderValue) -> Span {
    let span = tracing::debug_span!(
        "request",
        otel.name = format_args!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = field::Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = field::Empty,
        url.path = path,
        request_id = request_id.to_str().unwrap_or_default(),
    );
    put_below_caller(&span, headers);
    span
}

/// The span of a request that is passed on, for which its headers are changed: they name this span, or, where no traces
/// are exported, the caller's; and where there is none either, a new trace.
pub fn relay(path: &str, headers: &mut HeaderMap, method: &'static str, route: &str, request_id: &HeaderValue) -> Span {
    let span = span(path, headers, method, route, request_id);
    if !span.is_disabled() {
        inject(&span, headers);
    }
    if !headers.get(TRACEPARENT).is_some_and(is_traceparent) {
        // As sampled: it is for the service to decide, as for a request that comes without.
        let (trace, parent) = (rand::random_range(1..=u128::MAX), rand::random_range(1..=u64::MAX));
        if let Ok(made) = HeaderValue::try_from(format!("00-{trace:032x}-{parent:016x}-01")) {
            headers.insert(TRACEPARENT, made);
        }
        headers.remove(TRACESTATE);
    }
    span
}

/// Ends the span of a request that was passed on.
pub fn relayed(span: &Span, status: StatusCode) {
    span.record("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
}

/// Whether it names a trace (W3C Trace Context, section 3.2).
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

/// Makes the headers of a call name the span that it is made in.
pub(crate) fn inject(span: &Span, headers: &mut HeaderMap) {
    opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.inject_context(&span.context(), &mut HeaderInjector(headers));
    });
}

/// Puts a span below the one that the request's `traceparent` names.
pub(crate) fn put_below_caller(span: &Span, headers: &HeaderMap) {
    if !span.is_disabled() && headers.contains_key(TRACEPARENT) {
        let parent =
            opentelemetry::global::get_text_map_propagator(|propagator| propagator.extract(&HeaderExtractor(headers)));
        // It fails where no traces are exported: nothing to be below of.
        let _ = span.set_parent(parent);
    }
}

/// Logs a 5xx, with its cause, under the request's id.
fn log_failure(response: &Response, method: &str, route: &str, request_id: &HeaderValue) {
    let status = response.status().as_u16();
    let request_id = request_id.to_str().unwrap_or_default();
    if let Some(Cause(cause)) = response.extensions().get() {
        let cause = chain(cause.as_ref());
        tracing::error!(status, method, route, request_id, cause, "request failed");
    } else if refusal_is_due() {
        tracing::warn!(status, method, route, request_id, "request refused");
    }
}

/// Whether the last refusal was logged long enough ago.
pub fn refusal_is_due() -> bool {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let due = last.is_none_or(|last| last.elapsed() >= REFUSALS);
    if due {
        *last = Some(Instant::now());
    }
    due
}

/// An error and what led to it, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let reason = error.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        source = error.source();
    }
    text
}

/// Counts a request as in flight, also when its client goes away and its future is dropped.
pub(crate) struct InFlight(IntGauge);

impl InFlight {
    pub(crate) fn enter(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

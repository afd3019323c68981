//! What happens around every request: its id, its span, its metrics, a limit on how many are in flight and on how
//! long one takes.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{MatchedPath, Request},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use prometheus::IntGauge;
use tokio::time;
use tower::{Layer, Service};
use tracing::{Instrument, Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use uuid::{Uuid, fmt::Hyphenated};

use crate::{
    current::{Current, TRACEPARENT, TRACESTATE},
    metrics::Metrics,
    problem::{Cause, Problem},
    query::KnownParameters,
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

/// Adds all of this to a service's routes, and problems for unknown paths, methods and query parameters.
pub(crate) fn layer(routes: Router, metrics: Metrics, parameters: KnownParameters) -> Router {
    routes
        .fallback(async |uri: Uri| not_found(&uri))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed; see the Allow header")
        })
        // One layer: axum boxes the handler once for each.
        .layer((Observe(Arc::new(metrics)), parameters))
}

fn not_found(uri: &Uri) -> Problem {
    match uri.path() {
        path if path.len() > 1 && path.ends_with('/') => {
            Problem::not_found("there is nothing at this path; try it without the trailing slash")
        }
        _ => Problem::not_found("there is nothing at this path"),
    }
}

/// The layer that does it. Made by hand, as axum's `from_fn` clones and boxes the handler of each request.
#[derive(Clone)]
struct Observe(Arc<Metrics>);

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, handler: S) -> Observed<S> {
        Observed { handler, metrics: self.0.clone() }
    }
}

#[derive(Clone)]
struct Observed<S> {
    handler: S,
    metrics: Arc<Metrics>,
}

impl<S> Service<Request> for Observed<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.handler.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let begun = Instant::now();
        let metrics = self.metrics.clone();
        let in_flight = InFlight::enter(&metrics.in_flight);
        let request_id = request_id(request.headers());
        let method = method_label(request.method());
        let matched = request.extensions().get::<MatchedPath>().cloned();
        let is_safe = request.method().is_safe();
        let route = matched.as_ref().map_or("unmatched", MatchedPath::as_str);
        let span = span(request.uri().path(), request.headers(), method, route, &request_id);
        let current = Current::of(&request_id, request.headers());
        let handler = (metrics.in_flight.get() <= MAX_IN_FLIGHT).then(|| self.handler.call(request));

        Box::pin(async move {
            let route = matched.as_ref().map_or("unmatched", MatchedPath::as_str);
            let mut response = match handler {
                Some(handler) => {
                    let handler = handler.map(|answer| answer.unwrap_or_else(|error| match error {}));
                    answer(current.scope(handler.instrument(span.clone())), is_safe).await
                }
                None => Problem::unavailable("too many requests are in flight; try again in a moment").into_response(),
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
            Ok(response)
        })
    }
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
        let mut id = [0; Hyphenated::LENGTH];
        Uuid::new_v4().hyphenated().encode_lower(&mut id);
        // Shared from the start: it is cloned for each request.
        HeaderValue::from_maybe_shared(Bytes::from_owner(id)).unwrap_or(HeaderValue::from_static("unknown"))
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
        headers.insert(TRACEPARENT, new_trace());
        headers.remove(TRACESTATE);
    }
    span
}

/// A `traceparent` of nobody's; as sampled: it is for the service to decide, as for a request that comes without.
fn new_trace() -> HeaderValue {
    // Neither id may be zero (W3C Trace Context, section 3.2.2), which chance will not bring about.
    let ids: [u8; 24] = rand::random();
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
    let digits = |byte: u8| [byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]);
    for (index, byte) in ids.into_iter().enumerate() {
        let at = if index < 16 { 3 + 2 * index } else { 4 + 2 * index };
        text[at..at + 2].copy_from_slice(&digits(byte));
    }
    HeaderValue::from_maybe_shared(Bytes::from_owner(text)).unwrap_or(HeaderValue::from_static("unknown"))
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

//! What happens around every request: its id, its span, its metrics, a limit on how many are in flight and on how
//! long one takes.

use std::{
    any::Any,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use opentelemetry_http::HeaderExtractor;
use prometheus::IntGauge;
use tokio::time;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::{Instrument, Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use uuid::Uuid;

use crate::{
    metrics::Metrics,
    problem::{Cause, Problem},
};

/// How long a request may take, its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Requests in flight beyond this are refused: they would only wait.
const MAX_IN_FLIGHT: i64 = 2048;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Adds all of this to a service's routes, with problems for a path or method that is not there.
pub(crate) fn layer(routes: Router, metrics: Metrics) -> Router {
    routes
        .fallback(async || Problem::not_found("there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method; `Allow` lists those it takes")
        })
        .layer(CatchPanicLayer::custom(answer_panic))
        .layer(middleware::from_fn_with_state(metrics, observe))
}

async fn observe(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let in_flight = InFlight::enter(&metrics.in_flight);
    let request_id = request_id(request.headers());
    let method = method_label(request.method());
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("unmatched", MatchedPath::as_str);
    let span = span(&request, method, route, &request_id);

    let mut response = if metrics.in_flight.get() > MAX_IN_FLIGHT {
        Problem::unavailable("too many requests are in flight; try again in a moment").into_response()
    } else {
        time::timeout(REQUEST_TIMEOUT, next.run(request).instrument(span.clone())).await.unwrap_or_else(|_| {
            let cause = "the request took longer than its limit";
            Problem::unavailable("the request took too long; it may or may not have been done")
                .caused_by(cause)
                .into_response()
        })
    };

    drop(in_flight);
    let status = response.status();
    report(&span, &response);
    metrics.answered(method, route, status.as_str(), begun.elapsed());
    response.headers_mut().insert(REQUEST_ID, request_id);
    response
}

/// The client's own id where it is of a form that is safe to log and pass on, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(REQUEST_ID).filter(|id| {
        (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    });
    given.cloned().unwrap_or_else(|| {
        let mut buffer = Uuid::encode_buffer();
        let id = Uuid::now_v7().hyphenated().encode_lower(&mut buffer);
        HeaderValue::from_str(id).unwrap_or(HeaderValue::from_static("unknown"))
    })
}

/// Methods of the client's own invention would be labels without bound.
fn method_label(method: &Method) -> &'static str {
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
fn span(request: &Request, method: &'static str, route: &str, request_id: &HeaderValue) -> Span {
    let span = tracing::info_span!(
        "request",
        otel.name = format_args!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = field::Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = field::Empty,
        url.path = request.uri().path(),
        request_id = request_id.to_str().unwrap_or_default(),
    );
    if request.headers().contains_key("traceparent") {
        let parent = opentelemetry::global::get_text_map_propagator(|propagator| {
            propagator.extract(&HeaderExtractor(request.headers()))
        });
        // It fails where no traces are exported: nothing to be below of.
        let _ = span.set_parent(parent);
    }
    span
}

/// Records the outcome on the span, and a 5xx with its cause in the log.
fn report(span: &Span, response: &Response) {
    let status = response.status();
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
        let _entered = span.enter();
        match response.extensions().get::<Cause>() {
            Some(Cause(cause)) => tracing::error!(status = status.as_u16(), cause = chain(cause.as_ref()), "request failed"),
            None => tracing::warn!(status = status.as_u16(), "request refused"),
        }
    } else {
        span.in_scope(|| tracing::debug!(status = status.as_u16(), "request answered"));
    }
}

/// An error and what led to it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
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

fn answer_panic(panic: Box<dyn Any + Send>) -> Response {
    let message = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Problem::internal(format!("panic: {}", message.unwrap_or("no message"))).into_response()
}

/// Counts a request as in flight, also when its client goes away and its future is dropped.
struct InFlight<'a>(&'a IntGauge);

impl<'a> InFlight<'a> {
    fn enter(gauge: &'a IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

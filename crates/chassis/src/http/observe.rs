//! The layer around every request: its id, span and metrics, a timeout, and a limit on the requests in flight.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use axum::{
    Router,
    extract::{MatchedPath, Request},
    response::{IntoResponse, Response},
};
use futures_util::{FutureExt, future::BoxFuture};
use http::{HeaderValue, StatusCode, Uri};
use runtime::{
    Cause, Problem,
    metrics::InFlight,
    request::{
        REQUEST_ID, RequestContext, chain, method_label, record_status, request_id, server_span, should_log_refusal,
    },
};
use tokio::time;
use tower::{Layer, Service};
use tracing::Instrument;

use super::{metrics::Metrics, query::KnownParameters};
use crate::limits::{MAX_IN_FLIGHT, REQUEST_TIMEOUT};

/// Adds the layer to the routes of a service, with problems for unknown paths, methods and query parameters.
pub(crate) fn layer(routes: Router, metrics: Metrics, parameters: KnownParameters) -> Router {
    routes
        .fallback(async |uri: Uri| not_found(&uri))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed; see the Allow header")
        })
        // A single layer, because axum boxes the handler once per layer.
        .layer((Observe(Arc::new(metrics)), parameters))
}

fn not_found(uri: &Uri) -> Problem {
    match uri.path() {
        path if path.len() > 1 && path.ends_with('/') => {
            Problem::not_found("no such path; try it without the trailing slash")
        }
        _ => Problem::not_found("no such path"),
    }
}

/// Written by hand, because axum's `from_fn` clones and boxes the handler for each request.
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
        let started = Instant::now();
        let metrics = self.metrics.clone();
        let in_flight = InFlight::enter(&metrics.in_flight);
        let request_id = request_id(request.headers());
        let method = method_label(request.method());
        let matched = request.extensions().get::<MatchedPath>().cloned();
        let is_safe = request.method().is_safe();
        let route = matched.as_ref().map_or("unmatched", MatchedPath::as_str);
        let span = server_span(request.uri().path(), request.headers(), method, route, &request_id);
        let context = RequestContext::new(&request_id, request.headers());
        let handler = (metrics.in_flight.get() <= MAX_IN_FLIGHT).then(|| self.handler.call(request));

        Box::pin(async move {
            let route = matched.as_ref().map_or("unmatched", MatchedPath::as_str);
            let mut response = match handler {
                Some(handler) => {
                    let handler = handler.map(|response| response.unwrap_or_else(|error| match error {}));
                    respond(context.scope(handler.instrument(span.clone())), is_safe).await
                }
                None => Problem::unavailable("too many requests are in flight; try again in a moment").into_response(),
            };
            drop(in_flight);
            let status = response.status();
            record_status(&span, status);
            if status.is_server_error() {
                span.in_scope(|| log_failure(&response, method, route, &request_id));
            }
            metrics.responded(method, route, status.as_str(), started.elapsed());
            response.headers_mut().insert(REQUEST_ID, request_id);
            Ok(response)
        })
    }
}

/// Runs the handler. Panics and timeouts become responses.
async fn respond(handler: impl Future<Output = Response>, is_safe: bool) -> Response {
    match time::timeout(REQUEST_TIMEOUT, AssertUnwindSafe(handler).catch_unwind()).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => Problem::from_panic(panic.as_ref()).into_response(),
        Err(_) => {
            let problem =
                if is_safe { Problem::unavailable("the request took too long") } else { Problem::outcome_unknown() };
            problem.caused_by("the request timed out").into_response()
        }
    }
}

/// Logs a 5xx, with its cause, under the request's id.
fn log_failure(response: &Response, method: &str, route: &str, request_id: &HeaderValue) {
    let status = response.status().as_u16();
    let request_id = request_id.to_str().unwrap_or_default();
    if let Some(Cause(cause)) = response.extensions().get() {
        let cause = chain(cause.as_ref());
        tracing::error!(status, method, route, request_id, cause, "request failed");
    } else if should_log_refusal() {
        tracing::warn!(status, method, route, request_id, "request refused");
    }
}

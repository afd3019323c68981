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
use futures_util::{
    FutureExt,
    future::{BoxFuture, Either},
};
use http::{HeaderValue, Method, StatusCode, Uri};
use runtime::{
    Cause, Problem,
    metrics::InFlight,
    panic_text,
    request::{
        REQUEST_ID, RequestContext, chain, method_label, record_status, request_id, server_span, should_log_refusal,
        unavailability_log_due,
    },
};
use tokio::time;
use tower::{Layer, Service};
use tracing::Instrument;

use super::{awaited::AwaitedBodies, conditional::Preconditions, metrics::Metrics, query::KnownParameters};
use crate::{
    authenticate::Authenticator,
    limits::{MAX_IN_FLIGHT, REQUEST_TIMEOUT},
    on_behalf,
    refusals::{Origin, Refusals, address},
    unsent::Unsent,
};

/// Adds the layer to the routes of a service, with problems for unknown paths, methods and query parameters.
pub(crate) fn layer(
    routes: Router,
    metrics: Metrics,
    authenticator: Authenticator,
    refusals: Refusals,
    parameters: KnownParameters,
    unsent: Unsent,
) -> Router {
    let bodies = AwaitedBodies::new(metrics.handling.clone());
    routes
        .fallback(async |uri: Uri| not_found(&uri))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed; see the Allow header")
        })
        // A single layer, because axum boxes the handler once per layer.
        .layer((Observe { metrics: Arc::new(metrics), authenticator, refusals, unsent, bodies }, parameters))
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
struct Observe {
    metrics: Arc<Metrics>,
    authenticator: Authenticator,
    refusals: Refusals,
    unsent: Unsent,
    bodies: AwaitedBodies,
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, handler: S) -> Observed<S> {
        Observed {
            handler,
            metrics: self.metrics.clone(),
            authenticator: self.authenticator.clone(),
            refusals: self.refusals.clone(),
            unsent: self.unsent.clone(),
            bodies: self.bodies.clone(),
        }
    }
}

#[derive(Clone)]
struct Observed<S> {
    handler: S,
    metrics: Arc<Metrics>,
    authenticator: Authenticator,
    refusals: Refusals,
    unsent: Unsent,
    bodies: AwaitedBodies,
}

impl<S> Service<Request> for Observed<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.handler.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let started = Instant::now();
        let (metrics, unsent, refusals) = (self.metrics.clone(), self.unsent.clone(), self.refusals.clone());
        let in_flight = InFlight::enter(&metrics.in_flight);
        let handling = InFlight::enter(&metrics.handling);
        let request_id = request_id(request.headers());
        let method = method_label(request.method());
        let matched = request.extensions().get::<MatchedPath>().cloned();
        let is_safe = request.method().is_safe();
        let route = matched.as_ref().map_or("unmatched", MatchedPath::as_str);
        let span = server_span(request.uri().path(), request.headers(), method, route, &request_id);
        let context = RequestContext::new(&request_id, request.headers());
        let address = address(request.headers());
        let mut identity = None;
        // Handlers check the preconditions of changes.
        let preconditions = matches!(*request.method(), Method::GET | Method::HEAD)
            .then(|| Preconditions::from_headers(request.headers()))
            .transpose();
        let (handler, preconditions) = match preconditions {
            _ if metrics.handling.get() > MAX_IN_FLIGHT => (Err(overloaded()), None),
            _ if unsent.is_full() => (Err(Unsent::refusal()), None),
            Ok(preconditions) => match self.authenticator.authenticate(&mut request) {
                Some(Ok(admitted)) => {
                    identity = Some(admitted.identity);
                    let handler = self.handler.call(self.bodies.track(request));
                    (Ok(Either::Left(on_behalf::scope(admitted.user_token, handler))), preconditions)
                }
                Some(Err(refusal)) => (Err(refusal.into()), None),
                None => (Ok(Either::Right(self.call_later(self.bodies.track(request)).boxed())), preconditions),
            },
            Err(malformed) => (Err(malformed), None),
        };

        Box::pin(async move {
            let route = matched.as_ref().map_or("unmatched", MatchedPath::as_str);
            let mut response = match handler {
                Ok(handler) => {
                    let handler = handler.map(|response| response.unwrap_or_else(|error| match error {}));
                    respond(context.scope(handler.instrument(span.clone())), is_safe).await
                }
                Err(problem) => problem.into_response(),
            };
            let origin = Origin {
                identity: identity.as_ref().or_else(|| response.extensions().get()),
                address: address.as_ref(),
                operation: route,
                request_id: &request_id,
            };
            refusals.record(&response, &origin);
            if let Some(preconditions) = preconditions {
                response = preconditions.apply(response);
            }
            drop(handling);
            response = unsent.hold(response, is_safe, in_flight, Problem::into_response);
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

impl<S> Observed<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    /// Runs the handler when the keys that the request's token needs have been read.
    fn call_later(&self, mut request: Request) -> impl Future<Output = Result<Response, Infallible>> + Send + 'static {
        let (mut handler, authenticator) = (self.handler.clone(), self.authenticator.clone());
        async move {
            let admitted = match authenticator.authenticate_later(&mut request).await {
                Ok(admitted) => admitted,
                Err(refusal) => return Ok(Problem::from(refusal).into_response()),
            };
            let mut response = on_behalf::scope(admitted.user_token, handler.call(request)).await?;
            // For the record of refusals.
            response.extensions_mut().insert(admitted.identity);
            Ok(response)
        }
    }
}

pub(super) fn overloaded() -> Problem {
    Problem::unavailable("too many requests are in flight; try again in a moment")
}

/// Runs the handler. Panics and timeouts become responses.
async fn respond(handler: impl Future<Output = Response>, is_safe: bool) -> Response {
    match time::timeout(REQUEST_TIMEOUT, AssertUnwindSafe(handler).catch_unwind()).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) if is_safe => Problem::from_panic(panic.as_ref()).into_response(),
        // Nobody knows how far the handler got.
        Ok(Err(panic)) => Problem::outcome_unknown().caused_by(panic_text(panic.as_ref())).into_response(),
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
        if response.status() != StatusCode::SERVICE_UNAVAILABLE {
            tracing::error!(status, method, route, request_id, cause, "request failed");
        } else if let Some(omitted) = unavailability_log_due() {
            tracing::error!(status, method, route, request_id, cause, omitted, "request failed");
        }
    } else if should_log_refusal() {
        tracing::warn!(status, method, route, request_id, "request refused");
    }
}

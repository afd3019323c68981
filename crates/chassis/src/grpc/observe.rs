//! The layer around every gRPC call that is served. It does what `crate::http::observe` does for HTTP requests, and
//! applies the caller's deadline.

use std::{collections::HashMap, error::Error, iter, panic::AssertUnwindSafe, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use http::{HeaderMap, StatusCode};
use identity::Refusal;
use runtime::{
    Problem, grpc,
    metrics::InFlight,
    panic_text,
    request::{REQUEST_ID, RequestContext, chain, request_id, set_parent, should_log_refusal, unavailability_log_due},
};
use tokio::time;
use tonic::{Code, Status};
use tracing::{Instrument, Span};

use super::{
    call::{self, Method},
    encoded::Encoded,
    metrics::ServerMetrics,
    recorded::{Record, Recorded},
    status::status,
    timeout,
};
use crate::{
    authenticate::{Admitted, Authenticator},
    limits::{MAX_IN_FLIGHT, REQUEST_TIMEOUT},
    on_behalf,
    refusals::{Origin, Refusals, address},
    unsent::Unsent,
};

/// The prefix of the services that every server has. Calls to them are not traced.
pub(super) const COMMON: &str = "grpc.";

/// A method that is served.
#[derive(Clone)]
pub(super) struct KnownMethod {
    pub(super) method: Method,
    /// Whether it changes nothing.
    pub(super) is_read: bool,
}

struct Server {
    metrics: ServerMetrics,
    authenticator: Authenticator,
    refusals: Refusals,
    unsent: Unsent,
    /// The methods, by their paths.
    methods: HashMap<String, KnownMethod>,
    unmatched: KnownMethod,
}

/// Adds the layer to the routes.
pub(super) fn layer(
    routes: Router,
    metrics: ServerMetrics,
    authenticator: Authenticator,
    refusals: Refusals,
    unsent: Unsent,
    methods: HashMap<String, KnownMethod>,
) -> Router {
    let unmatched = KnownMethod { method: Method::new("unmatched", "unmatched"), is_read: true };
    let server = Arc::new(Server { metrics, authenticator, refusals, unsent, methods, unmatched });
    routes.layer(middleware::from_fn_with_state(server, observe))
}

async fn observe(State(server): State<Arc<Server>>, mut request: Request, next: Next) -> Response {
    if !grpc::is_call(request.version(), request.headers()) {
        let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "this port only serves gRPC over HTTP/2");
        return problem.into_response();
    }
    let request_id = request_id(request.headers());
    let known = server.methods.get(request.uri().path()).unwrap_or(&server.unmatched);
    let KnownMethod { method, is_read } = known.clone();
    let span = span(&method, request.headers(), request_id.to_str().unwrap_or_default());
    let in_flight = InFlight::enter(&server.metrics.in_flight);
    let handling = InFlight::enter(&server.metrics.handling);
    let record = Record::begin(&server.metrics.calls, method, span.clone());

    let context = RequestContext::new(&request_id, request.headers());
    let address = address(request.headers());
    let mut identity = None;
    let result = if server.metrics.handling.get() > MAX_IN_FLIGHT {
        Err(status(Problem::unavailable("too many calls are in flight; try again in a moment")))
    } else if server.unsent.is_full() {
        Err(status(Unsent::refusal()))
    } else {
        match authenticate(&server.authenticator, &record.method, &mut request).await {
            Ok(admitted) => {
                let user_token = admitted.and_then(|admitted| {
                    identity = Some(admitted.identity);
                    admitted.user_token
                });
                let run = |request| context.scope(on_behalf::scope(user_token, next.run(request).instrument(span)));
                respond(request, is_read, run).await
            }
            Err(refusal) => Err(status(refusal.into())),
        }
    };
    let mut response = result.unwrap_or_else(Status::into_http);
    let origin = Origin {
        identity: identity.as_ref(),
        address: address.as_ref(),
        operation: &record.method.name,
        request_id: &request_id,
    };
    server.refusals.record(&response, &origin);
    if response.extensions().get::<Status>().is_some_and(has_lost_its_caller) {
        response = Status::cancelled("the caller disconnected").into_http();
    }
    drop(handling);
    let response = response.map(|body| Body::new(Encoded::new(body)));
    let refuse = |problem| -> Response { status(problem).into_http() };
    let mut response = server.unsent.hold(response, is_read, in_flight, refuse);
    if let Some(status) = response.extensions().get::<Status>() {
        log_failure(status, &record.method, request_id.to_str().unwrap_or_default());
    }
    response.headers_mut().insert(REQUEST_ID, request_id);
    if let Some(code) = call::code(response.headers()) {
        record.end(code);
        return response;
    }
    response.map(|body| Body::new(Recorded::new(body, record)))
}

/// Identifies the caller, except of the methods that every server has: probes have no token.
async fn authenticate(
    authenticator: &Authenticator,
    method: &Method,
    request: &mut Request,
) -> Result<Option<Admitted>, Refusal> {
    if method.service.starts_with(COMMON) {
        return Ok(None);
    }
    let admitted = match authenticator.authenticate(request) {
        Some(result) => result,
        None => authenticator.authenticate_later(request).await,
    };
    admitted.map(Some)
}

/// Runs the method until its response starts, within the caller's timeout and the server's.
async fn respond<F: Future<Output = Response>>(
    request: Request,
    is_read: bool,
    run: impl FnOnce(Request) -> F,
) -> Result<Response, Status> {
    let given = timeout::get(request.headers()).map_err(Status::invalid_argument)?;
    let limit = given.map_or(REQUEST_TIMEOUT, |given| given.min(REQUEST_TIMEOUT));
    match time::timeout(limit, AssertUnwindSafe(run(request)).catch_unwind()).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(panic)) if is_read => Err(status(Problem::from_panic(panic.as_ref()))),
        // Nobody knows how far the method got.
        Ok(Err(panic)) => Err(status(Problem::outcome_unknown().caused_by(panic_text(panic.as_ref())))),
        Err(_) => Err(Status::deadline_exceeded("the call timed out; it may have taken effect")),
    }
}

/// Returns whether the request could not be read because the caller disconnected. tonic reports this as UNKNOWN.
fn has_lost_its_caller(status: &Status) -> bool {
    let mut causes = iter::successors(status.source(), |&cause| cause.source());
    status.code() == Code::Unknown && causes.any(<dyn Error>::is::<hyper::Error>)
}

fn span(method: &Method, headers: &HeaderMap, request_id: &str) -> Span {
    if method.service.starts_with(COMMON) {
        return Span::none();
    }
    let span = method.span("server");
    span.record("request_id", request_id);
    set_parent(&span, headers);
    span
}

/// Logs a failure of the service, with its cause, under the id of the call.
fn log_failure(status: &Status, method: &Method, request_id: &str) {
    if !call::is_failure(status.code()) {
        return;
    }
    let (code, service, method) = (call::name(status.code()), &*method.service, &*method.name);
    if let Some(cause) = status.source() {
        let cause = chain(cause);
        if !matches!(status.code(), Code::Unavailable | Code::Unknown) {
            tracing::error!(code, service, method, request_id, cause, "call failed");
        } else if let Some(omitted) = unavailability_log_due() {
            tracing::error!(code, service, method, request_id, cause, omitted, "call failed");
        }
    } else if should_log_refusal() {
        tracing::warn!(code, service, method, request_id, reason = status.message(), "call refused");
    }
}

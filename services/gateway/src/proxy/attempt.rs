//! One attempt to have a request served by one endpoint.

use std::{
    future,
    io::{self, ErrorKind},
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderValue, Request, Response, StatusCode, Version, header, request::Parts, response};
use runtime::{Problem, server::ReadDeadline};
use tokio::{
    select,
    time::{Instant, sleep},
};

use super::{
    connect::EXHAUSTED,
    endpoint::{Endpoint, InFlightGuard},
    http1::{Connection, Deadlines, SendError},
    outcome::AttemptError,
    replayable_body::{ReplayableBody, RequestBodyError, UpstreamBody},
    response_body::ResponseBody,
    state::Timeouts,
    upstream::Upstream,
};
use crate::{metrics::UpstreamError, protocol::Protocol};

/// The media type of server-sent events.
const EVENTS: &[u8] = b"text/event-stream";

/// How often a request is sent at most.
const MAX_TRIES: usize = 3;

/// A request as its service gets it.
pub(super) struct UpstreamRequest {
    pub(super) parts: Parts,
    pub(super) body: ReplayableBody,
    pub(super) upstream: Arc<Upstream>,
    /// The network of its client.
    pub(super) client: u128,
    /// The thread that serves it, whose connections it uses.
    pub(super) worker: usize,
    pub(super) protocol: Protocol,
    /// Whether its method and headers allow sending it twice.
    pub(super) is_repeatable: bool,
    /// Whether an attempt may have taken effect: something was sent, and it got no response or one that says that the
    /// outcome is unknown.
    pub(super) outcome_unknown: AtomicBool,
    /// How often it was sent or could not be sent, without idle connections that were found closed before anything
    /// was written.
    pub(super) tries: AtomicUsize,
}

pub(super) enum UpstreamResponse {
    Http(Response<ResponseBody>),
    /// The endpoint has switched protocols.
    Upgraded {
        head: Response<()>,
        connection: Box<Connection>,
        guard: InFlightGuard,
    },
}

impl UpstreamRequest {
    /// Whether another try is left.
    pub(super) fn has_try(&self) -> bool {
        self.tries.load(Ordering::Relaxed) < MAX_TRIES
    }

    /// Whether the request may be repeated even though it was sent.
    pub(super) fn may_repeat(&self) -> bool {
        self.is_repeatable && self.body.is_replayable()
    }

    /// Sends the request to an endpoint and waits for the response head: over HTTP until the header timeout or `total`,
    /// for gRPC without a limit.
    pub(super) async fn attempt(
        &self,
        endpoint: &Arc<Endpoint>,
        timeouts: Timeouts,
        total: Instant,
    ) -> Result<UpstreamResponse, AttemptError> {
        self.tries.fetch_add(1, Ordering::Relaxed);
        let guard = InFlightGuard::new(endpoint.clone(), &self.upstream.metrics.in_flight);
        match self.protocol {
            Protocol::Http => self.attempt_http(guard, timeouts, total).await,
            Protocol::Grpc => self.attempt_grpc(guard, timeouts).await,
        }
    }

    async fn attempt_http(
        &self,
        guard: InFlightGuard,
        timeouts: Timeouts,
        total: Instant,
    ) -> Result<UpstreamResponse, AttemptError> {
        let endpoint = guard.endpoint().clone();
        let header = timeouts.header;
        let deadlines = Deadlines { head: total.min(Instant::now() + header), header, total };
        // Whether it was sent on an idle connection that turned out to be closed.
        let mut is_resent = false;
        loop {
            let idle = if is_resent { None } else { endpoint.take_idle(self.worker) };
            let was_idle = idle.is_some();
            let mut connection = match idle {
                // A request that must not be sent twice is worth the system call.
                Some(idle) if !idle.is_open(!self.is_repeatable) => continue,
                Some(idle) => idle,
                None => {
                    let started = Instant::now();
                    let limit = timeouts.connect.min(deadlines.head.saturating_duration_since(started));
                    Connection::open(endpoint.address, limit).await.map_err(|error| {
                        // If the request had no time to connect, something may still listen at the address.
                        let is_late = error.kind() == ErrorKind::TimedOut && started + timeouts.connect > total;
                        let kind = if is_late { UpstreamError::Timeout } else { connect_error(&error) };
                        AttemptError::new(kind, &error, true)
                    })?
                }
            };
            let (error, is_unsent) = match connection.send(&self.parts, self.body.attempt(), deadlines).await {
                Ok(head) => return self.response(head, connection, guard),
                Err(SendError::Unsent(_)) if was_idle => continue,
                Err(SendError::Unsent(error)) => (error, true),
                Err(SendError::Sent(error)) => (error, false),
            };
            let kind = error.kind();
            let was_closed = was_idle && kind == UpstreamError::Reset && self.body.error().is_none();
            if was_closed && self.may_repeat() && self.has_try() {
                // The endpoint closed an idle connection while the request was on its way, as it may.
                is_resent = true;
                self.tries.fetch_add(1, Ordering::Relaxed);
                self.outcome_unknown.store(true, Ordering::Relaxed);
                continue;
            }
            return Err(AttemptError::new(kind, &error, is_unsent));
        }
    }

    async fn attempt_grpc(&self, guard: InFlightGuard, timeouts: Timeouts) -> Result<UpstreamResponse, AttemptError> {
        let (endpoint, mut may_reconnect) = (guard.endpoint().clone(), true);
        loop {
            let pool = endpoint.http2(self.worker);
            let stream = pool.stream(self.client, endpoint.address, timeouts.connect).await;
            let mut stream = stream.map_err(|error| AttemptError::new(connect_error(&error), &error, true))?;
            let sent = select! {
                biased;
                sent = stream.send(self.http2_request()) => sent,
                () = self.nothing_arrives(timeouts.header) => {
                    let late = RequestBodyError::Timeout;
                    self.body.fail(late);
                    return Err(AttemptError::new(UpstreamError::Timeout, &late, false));
                }
            };
            let error = match sent {
                Ok(response) => {
                    let upstream = self.upstream.clone();
                    return Ok(UpstreamResponse::Http(
                        response.map(|body| ResponseBody::grpc(body, stream, guard, upstream)),
                    ));
                }
                Err(error) => error,
            };
            // An unsent request means that the connection was closing.
            if !(error.is_unsent && mem::take(&mut may_reconnect)) {
                return Err(error);
            }
        }
    }

    /// Waits until the client is late with the first byte of the body. Later, a stream may be silent.
    async fn nothing_arrives(&self, limit: Duration) {
        sleep(limit).await;
        if self.body.has_begun() {
            future::pending::<()>().await;
        }
    }

    fn http2_request(&self) -> Request<UpstreamBody> {
        let mut request = Request::new(self.body.attempt());
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = self.parts.uri.clone();
        *request.headers_mut() = self.parts.headers.clone();
        *request.version_mut() = Version::HTTP_2;
        request
    }

    fn response(
        &self,
        head: response::Parts,
        connection: Box<Connection>,
        guard: InFlightGuard,
    ) -> Result<UpstreamResponse, AttemptError> {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            if !self.parts.headers.contains_key(header::UPGRADE) {
                return Err(AttemptError::protocol("responded with 101 to a request without Upgrade"));
            }
            return Ok(UpstreamResponse::Upgraded { head: Response::from_parts(head, ()), connection, guard });
        }
        let body = ResponseBody::http1(connection, guard, self.worker, self.upstream.clone());
        Ok(UpstreamResponse::Http(Response::from_parts(head, body)))
    }
}

/// Why there is no connection.
fn connect_error(error: &io::Error) -> UpstreamError {
    if error.kind() == EXHAUSTED { UpstreamError::Local } else { UpstreamError::Connect }
}

impl UpstreamResponse {
    /// Whether the service says that it does not know the outcome.
    pub(super) fn has_unknown_outcome(&self) -> bool {
        matches!(self, Self::Http(response) if Problem::has_unknown_outcome(response.headers()))
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Http(response) => response.status(),
            Self::Upgraded { .. } => StatusCode::SWITCHING_PROTOCOLS,
        }
    }

    /// Stops sending the request body on this connection: another endpoint gets the rest.
    pub(super) fn abort_upload(&mut self) {
        if let Self::Http(response) = self {
            response.body_mut().abort_upload();
        }
    }

    /// Limits the time for the rest of the response, except for server-sent events, which are meant to go on.
    pub(super) fn set_deadline(&mut self, deadline: Option<Instant>) {
        let (Self::Http(response), Some(deadline)) = (self, deadline) else { return };
        let media_type = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        let is_events = media_type.get(..EVENTS.len()).is_some_and(|start| start.eq_ignore_ascii_case(EVENTS));
        if !is_events {
            response.body_mut().set_deadline(deadline);
            response.extensions_mut().insert(ReadDeadline(deadline));
        }
    }
}

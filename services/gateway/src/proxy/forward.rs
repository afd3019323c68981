//! Sends a request to an endpoint, and to another one where that is safe.
//!
//! Safe is, whatever the method, a request of which nothing was sent; and one that may be repeated by its nature (an
//! idempotent method, or an `Idempotency-Key`), as long as no answer has come and all of its body that was read is still
//! there. An answer of 502 or 503 counts as none where another endpoint works: a service says 503 when nothing was done,
//! or when a repetition with the same key finds out. If the other endpoint has no answer, that one is given. All
//! retries come out of the service's budget, but for those after a connection that was idle turned out to be closed.

use std::{mem, sync::Arc};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts, response};
use runtime::Problem;
use tokio::{net::TcpStream, time::Instant};

use super::{
    Proxy,
    answer::Answer,
    endpoint::{Endpoint, Lease},
    failure::{Failed, note_answer, note_failure, problem},
    http1::{self, Connection, Failure, Limits},
    http2,
    outgoing::{Fault, Outgoing, Source},
    record::Record,
    upstream::Upstream,
};
use crate::metrics::UpstreamError;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// How often a request is sent, at most.
const MOST_TRIES: usize = 3;

/// A request that is on its way.
pub(super) struct Call {
    pub(super) parts: Parts,
    pub(super) source: Source,
    pub(super) upstream: Arc<Upstream>,
    pub(super) worker: usize,
    pub(super) is_grpc: bool,
}

/// What became of it.
pub(super) enum Reply {
    Answer(Response<Answer>),
    /// The endpoint speaks another protocol from here on.
    Upgraded {
        head: Response<()>,
        stream: TcpStream,
        early: Bytes,
        lease: Lease,
    },
}

/// Whether a request may be sent twice by its nature.
pub(super) fn may_repeat(parts: &Parts) -> bool {
    parts.method.is_idempotent()
        || (matches!(parts.method, Method::POST | Method::PATCH) && parts.headers.contains_key(IDEMPOTENCY_KEY))
}

impl Proxy {
    /// Sends a request until there is an answer, or there is to be none.
    pub(super) async fn forward(&self, call: Call, record: &mut Record) -> Result<Reply, Problem> {
        let upstream = call.upstream.clone();
        let Some(group) = upstream.group(call.is_grpc) else {
            return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "this route takes no gRPC"));
        };
        upstream.budget.request();
        let repeats = !call.is_grpc && may_repeat(&call.parts);
        let begun = Instant::from_std(record.begun());
        let limit = (!call.is_grpc).then(|| begun + self.times.total);
        let mut tried = Vec::new();
        let mut second_best = None;
        loop {
            let now = self.now();
            let Some(endpoint) = group.pick(&tried, now) else {
                if let Some(kept) = second_best {
                    return Ok(call.give(kept, record));
                }
                let detail = format!("{} has no endpoint now; try again in a moment", upstream.name);
                return Err(Problem::unavailable(detail));
            };
            let address = endpoint.address;
            record.upstream = Some(endpoint.clone());
            let result = self.attempt(&call, &endpoint, repeats, limit).await;

            let now = self.now();
            let failed = match result {
                Ok(mut reply) => {
                    note_answer(&upstream, group, &endpoint, reply.status(), now);
                    reply.set_limit(limit);
                    let is_none = matches!(reply.status(), StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE);
                    if is_none {
                        tried.push(address);
                    }
                    let retry = is_none
                        && repeats
                        && tried.len() < MOST_TRIES
                        && call.source.may_be_sent_again()
                        && group.has_another(&tried, now)
                        && upstream.budget.retry(now);
                    if !retry {
                        call.source.forget();
                        return Ok(reply);
                    }
                    record.retries += 1;
                    upstream.metrics.retries.inc();
                    reply.give_up_upload();
                    second_best = Some((reply, endpoint));
                    continue;
                }
                Err(failed) => failed,
            };
            tried.push(address);
            if let Some(fault) = call.source.fault() {
                return Err(self.refusal(fault));
            }
            note_failure(&upstream, group, &endpoint, failed.kind, &failed.reason, now);
            let may_retry = if failed.is_unsent {
                // Where nobody listens, only another one can help.
                group.endpoints().iter().any(|endpoint| !tried.contains(&endpoint.address))
            } else {
                repeats && call.source.may_be_sent_again()
            };
            let in_time = limit.is_none_or(|limit| limit > Instant::now());
            if !(may_retry && in_time && tried.len() < MOST_TRIES && upstream.budget.retry(now)) {
                return match second_best {
                    Some(kept) => Ok(call.give(kept, record)),
                    None => Err(problem(&upstream, &failed, call.is_grpc || !call.parts.method.is_safe())),
                };
            }
            record.retries += 1;
            upstream.metrics.retries.inc();
        }
    }

    /// Sends a request to an endpoint, within the time that one may take to begin its answer.
    async fn attempt(
        &self,
        call: &Call,
        endpoint: &Arc<Endpoint>,
        repeats: bool,
        limit: Option<Instant>,
    ) -> Result<Reply, Failed> {
        let lease = Lease::new(endpoint.clone(), &call.upstream.metrics.in_flight);
        let Some(limit) = limit else { return self.attempt_grpc(call, lease).await };
        let header = self.times.header;
        let limits = Limits { until: limit.min(Instant::now() + header), header, total: limit };
        self.attempt_http(call, lease, repeats, limits).await
    }

    async fn attempt_http(&self, call: &Call, lease: Lease, repeats: bool, limits: Limits) -> Result<Reply, Failed> {
        let (endpoint, worker) = (lease.endpoint().clone(), call.worker);
        let mut fresh_only = false;
        loop {
            let idle = if fresh_only { None } else { endpoint.take(worker) };
            let was_idle = idle.is_some();
            let mut connection = match idle {
                // A request that must not be sent twice is worth a closer look.
                Some(idle) if !idle.is_alive(!repeats) => continue,
                Some(idle) => idle,
                None => {
                    let limit = self.times.connect.min(limits.until.saturating_duration_since(Instant::now()));
                    let opened = Connection::open(endpoint.address, limit).await;
                    opened.map_err(|error| Failed::to_connect(&error))?
                }
            };
            let (error, is_unsent) = match connection.send(&call.parts, call.source.outgoing(), limits).await {
                Ok(answer) => return call.reply(answer, connection, lease),
                Err(Failure::NotSent(_)) if was_idle => continue,
                Err(Failure::NotSent(error)) => (error, true),
                Err(Failure::Sent(error)) => (error, false),
            };
            let kind = error.kind();
            let closed = was_idle && kind == UpstreamError::Reset && call.source.fault().is_none();
            if closed && repeats && call.source.may_be_sent_again() {
                // It was closed while the request was on its way: no fault of the endpoint.
                fresh_only = true;
                continue;
            }
            return Err(Failed { kind, reason: runtime::request::chain(&error), is_unsent });
        }
    }

    /// gRPC has no limit but the caller's own: a stream may be silent for hours.
    async fn attempt_grpc(&self, call: &Call, lease: Lease) -> Result<Reply, Failed> {
        let (endpoint, mut again) = (lease.endpoint().clone(), true);
        loop {
            let sender = endpoint.grpc(call.worker).get(endpoint.address, self.times.connect).await;
            let mut sender = sender.map_err(|error| Failed::to_connect(&error))?;
            let http2::Failure { error, is_unsent } = match http2::send(&mut sender, call.grpc()).await {
                Ok(response) => {
                    let upstream = call.upstream.clone();
                    return Ok(Reply::Answer(response.map(|body| Answer::grpc(body, lease, upstream))));
                }
                Err(failure) => failure,
            };
            // The connection was about to end.
            if !(is_unsent && mem::take(&mut again)) {
                return Err(Failed { kind: http2::kind(&error), reason: runtime::request::chain(&error), is_unsent });
            }
        }
    }

    /// The answer to a request whose body is at fault.
    fn refusal(&self, fault: Fault) -> Problem {
        match fault {
            Fault::TooLarge => self.too_large(),
            Fault::Slow => Problem::new(StatusCode::REQUEST_TIMEOUT, "the request's body did not arrive in time"),
            Fault::Client => Problem::new(StatusCode::BAD_REQUEST, "the request's body is malformed or not complete"),
        }
    }
}

impl Call {
    /// The request as one by HTTP/2.
    fn grpc(&self) -> Request<Outgoing> {
        let mut request = Request::new(self.source.outgoing());
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = self.parts.uri.clone();
        *request.headers_mut() = self.parts.headers.clone();
        *request.version_mut() = Version::HTTP_2;
        request
    }

    /// The answer that was kept, as that of its endpoint, after another one had none.
    fn give(&self, (reply, endpoint): (Reply, Arc<Endpoint>), record: &mut Record) -> Reply {
        self.source.forget();
        record.upstream = Some(endpoint);
        reply
    }

    /// An answer as it is passed on.
    fn reply(&self, answer: response::Parts, connection: Box<Connection>, lease: Lease) -> Result<Reply, Failed> {
        if answer.status == StatusCode::SWITCHING_PROTOCOLS {
            if !self.parts.headers.contains_key(header::UPGRADE) {
                return Err(Failed::new(UpstreamError::Protocol, "it answered 101, which was not asked for"));
            }
            let (stream, early) = connection.into_stream();
            return Ok(Reply::Upgraded { head: Response::from_parts(answer, ()), stream, early, lease });
        }
        let body = http1::Answer::new(connection, lease, self.worker);
        Ok(Reply::Answer(Response::from_parts(answer, Answer::http1(body, self.upstream.clone()))))
    }
}

impl Reply {
    fn status(&self) -> StatusCode {
        match self {
            Self::Answer(response) => response.status(),
            Self::Upgraded { .. } => StatusCode::SWITCHING_PROTOCOLS,
        }
    }

    /// Sends no more of the request, which goes to another endpoint.
    fn give_up_upload(&mut self) {
        if let Self::Answer(response) = self {
            response.body_mut().give_up_upload();
        }
    }

    /// Limits the time for the rest of an answer, but not of one that is meant to go on: events, as they happen.
    fn set_limit(&mut self, until: Option<Instant>) {
        let (Self::Answer(response), Some(until)) = (self, until) else { return };
        let media_type = response.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        if !media_type.starts_with(b"text/event-stream") {
            response.body_mut().set_limit(until);
        }
    }
}

//! Channels to the services that a service calls: each a set of connections that follows the peer's addresses, leaves
//! out those that do not answer, and sends a call once more where that is safe.

mod address;
mod budget;
mod connection;
mod endpoint;
mod pool;

use std::{
    collections::HashMap,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response, Uri, request::Parts};
use http_body_util::{BodyExt, Collected, Full};
use prometheus::Registry;
use runtime::request::{RequestContext, inject};
use tokio::time::{self, Instant};
use tonic::{Code, Status, body::Body};
use tracing::{Instrument, Span};

pub use address::PeerUrl;

use super::{call::Method, metrics::ClientMetrics, recorded::Record, timeout};
use crate::limits::REQUEST_TIMEOUT;
use budget::Budget;
use connection::{Failure, code};
use pool::{Lease, Pool};

/// How often a call that was certainly not sent is tried in all: each time the connection had just been given up.
const MOST_TRIES: usize = 4;

/// Marks a call that changes nothing.
#[derive(Debug, Clone, Copy)]
struct ChangesNothing;

/// A call that changes nothing, and may therefore be sent once more; answered within `limit` or not at all.
#[must_use]
pub fn read<T>(message: T, limit: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    timeout::set(request.metadata_mut().as_mut(), limit);
    request.extensions_mut().insert(ChangesNothing);
    request
}

/// The channel to a peer, for the clients generated from its API; for calls with one message each way. A call without a
/// deadline gets one of 15 s.
///
/// If a call was certainly not sent it is sent again, whatever it does. One that changes nothing ([`read`]) is sent a
/// second time, to another address if there is one: when its connection was lost before the deadline, and, where another
/// address is ready, when the answer was UNAVAILABLE or half of the time is over.
#[derive(Clone)]
pub struct Channel(Arc<Peer>);

struct Peer {
    name: &'static str,
    pool: Arc<Pool>,
    budget: Budget,
    metrics: ClientMetrics,
}

/// A service's channels to its peers.
#[derive(Clone)]
pub(crate) struct Peers(HashMap<&'static str, Channel>);

impl Peers {
    /// Starts to connect to those of whom it is said where they are.
    ///
    /// # Errors
    /// Where two metrics have one name: a mistake in the code.
    pub(crate) fn connect(
        names: &[&'static str],
        urls: &[(&'static str, PeerUrl)],
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let mut channels = HashMap::new();
        if names.is_empty() {
            return Ok(Self(channels));
        }
        let metrics = ClientMetrics::new(registry)?;
        for name in names.iter().copied() {
            if let Some((_, url)) = urls.iter().find(|(peer, _)| *peer == name) {
                let (pool, budget, metrics) = (Pool::start(name, url.clone()), Budget::default(), metrics.clone());
                channels.insert(name, Channel(Arc::new(Peer { name, pool, budget, metrics })));
            } else {
                tracing::warn!(peer = name, "no URL configured for peer; treating it as unavailable");
            }
        }
        Ok(Self(channels))
    }

    pub(crate) fn channel(&self, name: &str) -> Option<Channel> {
        self.0.get(name).cloned()
    }
}

impl tower::Service<Request<Body>> for Channel {
    type Response = Response<Collected<Bytes>>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let peer = self.0.clone();
        let method = Method::of_path(request.uri().path());
        let span = method.span("client");
        span.record("server.address", peer.name);
        let record = Record::begin(&peer.metrics.calls, method, span.clone(), None);
        let work = async move {
            let result = peer.call(request, &record).await;
            let code = match &result {
                Ok(response) => code(response),
                Err(status) => status.code(),
            };
            record.end(code);
            result
        };
        Box::pin(work.instrument(span))
    }
}

/// A call as it is sent, as often as need be.
struct Call {
    parts: Parts,
    message: Bytes,
    deadline: Instant,
    changes_nothing: bool,
}

impl Call {
    async fn new(request: Request<Body>, span: &Span) -> Result<Self, Status> {
        let (mut parts, body) = request.into_parts();
        let limit = timeout::get(&parts.headers).map_err(Status::internal)?.unwrap_or(REQUEST_TIMEOUT);
        let changes_nothing = parts.extensions.get::<ChangesNothing>().is_some();
        pass_on(&mut parts.headers, span);
        let message = body.collect().await?.to_bytes();
        Ok(Self { parts, message, deadline: Instant::now() + limit, changes_nothing })
    }

    /// The request for one address, which is told how much time is left.
    fn request(&self, lease: &Lease) -> Result<Request<Full<Bytes>>, Status> {
        let uri = Uri::builder().scheme("http").authority(lease.authority().clone());
        let uri = uri.path_and_query(self.parts.uri.path()).build();
        let mut request = Request::new(Full::new(self.message.clone()));
        *request.method_mut() = self.parts.method.clone();
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = uri.map_err(|error| Status::internal(error.to_string()))?;
        *request.headers_mut() = self.parts.headers.clone();
        timeout::set(request.headers_mut(), self.deadline.saturating_duration_since(Instant::now()));
        Ok(request)
    }
}

/// The id of the request that is being answered, and the trace.
fn pass_on(headers: &mut HeaderMap, span: &Span) {
    RequestContext::propagate(headers);
    if !span.is_disabled() {
        inject(span, headers);
    }
}

impl Peer {
    async fn call(&self, request: Request<Body>, record: &Record) -> Result<Response<Collected<Bytes>>, Status> {
        let call = Call::new(request, &record.span).await?;
        let mut repeated = false;
        let mut avoided = None;
        for _ in 0..MOST_TRIES {
            let lease = time::timeout_at(call.deadline, self.pool.lease(avoided)).await;
            let lease = lease.map_err(|_| too_late())?.ok_or_else(|| self.away())?;
            let may_repeat = call.changes_nothing && !repeated && self.budget.allows();
            let others = self.pool.others_are_ready(&lease);
            // Time is kept for another address, in case this one says nothing.
            let now = Instant::now();
            let until = if may_repeat && others { now + (call.deadline - now) / 2 } else { call.deadline };

            let failed = match time::timeout_at(until, lease.send(call.request(&lease)?)).await {
                Ok(Ok(response)) if code(&response) != Code::Unavailable => {
                    self.budget.succeeded();
                    return Ok(response);
                }
                // It answers, and has no answer: only another one may. Whether it will have one soon, its health says.
                Ok(Ok(response)) => {
                    lease.doubt();
                    if !(may_repeat && others) {
                        return Ok(response);
                    }
                    self.away()
                }
                Ok(Err(Failure::NotSent)) => {
                    lease.doubt();
                    continue;
                }
                Ok(Err(Failure::Lost(error))) => {
                    lease.doubt();
                    // Not UNAVAILABLE, which says that nothing was done.
                    Status::unknown(format!("the connection to {} was lost: {error}", self.name))
                }
                Err(_) => {
                    lease.doubt();
                    too_late()
                }
            };
            if !may_repeat || Instant::now() >= call.deadline {
                return Err(failed);
            }
            self.budget.repeated();
            self.metrics.repeated(&record.method);
            (repeated, avoided) = (true, Some(lease.address()));
        }
        Err(self.away())
    }

    fn away(&self) -> Status {
        Status::unavailable(format!("{} does not answer", self.name))
    }
}

fn too_late() -> Status {
    Status::deadline_exceeded("no answer came in time")
}

#[cfg(test)]
mod tests;

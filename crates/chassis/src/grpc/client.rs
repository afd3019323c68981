//! Channels to the peers of a service. A channel follows the addresses of its peer, ejects those that do not respond,
//! and retries a call if that is safe.

mod address;
mod availability;
mod budget;
mod connection;
mod endpoint;
mod pool;
mod token;

use std::{
    collections::HashMap,
    path::Path,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response, Uri, header, request::Parts};
use http_body_util::{BodyExt, Collected, Full};
use prometheus::Registry;
use runtime::request::{RequestContext, inject};
use tokio::time::{self, Instant};
use tonic::{Code, Status, body::Body};
use tracing::{Instrument, Span};

pub use address::PeerUrl;

use super::{call::Method, metrics::ClientMetrics, recorded::Record, timeout};
use crate::{
    limits::REQUEST_TIMEOUT,
    on_behalf::{self, ON_BEHALF_OF},
};
use budget::Budget;
use connection::{CallError, code};
use pool::{Checkout, Pool};
use token::PeerToken;

/// The maximum number of attempts for a call, including those that were not sent because the connection had just been
/// closed.
const MAX_ATTEMPTS: usize = 4;

/// Marks a read-only call.
#[derive(Debug, Clone, Copy)]
struct ReadOnly;

/// Creates a read-only call, which may be retried. Its deadline is `limit` from now.
#[must_use]
pub fn read<T>(message: T, limit: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    timeout::set(request.metadata_mut().as_mut(), limit);
    request.extensions_mut().insert(ReadOnly);
    request
}

/// The channel to a peer, for clients generated from its API. It supports unary calls. A call without a deadline gets
/// one of 15 s.
///
/// A call has the service's own token for the peer, if there is one, and then also the token of the user whose request is
/// handled.
///
/// A call that was certainly not sent is sent again, up to four attempts in total. A read-only call ([`read`]) is also
/// retried once, if the retry budget allows it, and on another address if possible:
///
/// - after a lost connection
/// - if another address is ready, after UNAVAILABLE or half of the time
#[derive(Clone)]
pub struct Channel(Arc<Peer>);

struct Peer {
    name: &'static str,
    pool: Arc<Pool>,
    budget: Budget,
    metrics: ClientMetrics,
    /// The token of the service itself; `None` if it proves to nobody who it is.
    token: Option<Arc<PeerToken>>,
}

/// A service's channels to its peers.
#[derive(Clone)]
pub(crate) struct Peers(HashMap<&'static str, Channel>);

impl Peers {
    /// Starts to connect to the peers that have a URL. `tokens` is the folder with a token for each.
    ///
    /// # Errors
    /// Returns an error if two metrics share a name, which is a bug.
    pub(crate) fn connect(
        names: &[&'static str],
        urls: &[(&'static str, PeerUrl)],
        tokens: Option<&Path>,
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
                let token = tokens.map(|folder| PeerToken::follow(name, folder));
                channels.insert(name, Channel(Arc::new(Peer { name, pool, budget, metrics, token })));
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
        let method = Method::from_path(request.uri().path());
        let span = method.span("client");
        span.record("server.address", peer.name);
        let record = Record::begin(&peer.metrics.calls, method, span.clone());
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

/// A call that can be sent several times.
struct Call {
    parts: Parts,
    message: Bytes,
    deadline: Instant,
    is_read_only: bool,
}

impl Call {
    async fn new(request: Request<Body>, span: &Span) -> Result<Self, Status> {
        let (mut parts, body) = request.into_parts();
        let limit = timeout::get(&parts.headers).map_err(Status::internal)?.unwrap_or(REQUEST_TIMEOUT);
        let is_read_only = parts.extensions.get::<ReadOnly>().is_some();
        propagate(&mut parts.headers, span);
        let message = body.collect().await?.to_bytes();
        Ok(Self { parts, message, deadline: Instant::now() + limit, is_read_only })
    }

    /// Builds the request for one address, with the remaining time as its timeout.
    fn request(&self, checkout: &Checkout) -> Result<Request<Full<Bytes>>, Status> {
        let uri = Uri::builder().scheme("http").authority(checkout.authority().clone());
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

/// Adds the id of the current request, and its trace.
fn propagate(headers: &mut HeaderMap, span: &Span) {
    RequestContext::propagate(headers);
    if !span.is_disabled() {
        inject(span, headers);
    }
}

/// Adds the token of the service, and that of the user for whom the call is made.
fn authorize(headers: &mut HeaderMap, token: &PeerToken) {
    let Some(own) = token.current() else { return };
    headers.insert(header::AUTHORIZATION, own);
    if let Some(user) = on_behalf::user_token() {
        headers.insert(ON_BEHALF_OF, user);
    }
}

impl Peer {
    async fn call(&self, request: Request<Body>, record: &Record) -> Result<Response<Collected<Bytes>>, Status> {
        let mut call = Call::new(request, &record.span).await?;
        let mut is_renewed = false;
        if let Some(token) = &self.token {
            authorize(&mut call.parts.headers, token);
        }
        let mut retried = false;
        let mut avoided = None;
        for _ in 0..MAX_ATTEMPTS {
            let checkout = time::timeout_at(call.deadline, self.pool.checkout(avoided)).await;
            let checkout = checkout.map_err(|_| timed_out())?.ok_or_else(|| self.unavailable())?;
            let may_retry = call.is_read_only && !retried && self.budget.allows();
            let others = self.pool.others_are_ready(&checkout);
            // Reserve time for another address, in case this one does not respond.
            let now = Instant::now();
            let until = if may_retry && others { now + (call.deadline - now) / 2 } else { call.deadline };

            let failed = match time::timeout_at(until, checkout.send(call.request(&checkout)?)).await {
                // It had no effect. The token may have been renewed just now, for instance because of a new key.
                Ok(Ok(response)) if code(&response) == Code::Unauthenticated && !is_renewed => {
                    is_renewed = true;
                    let Some(token) = self.token.as_ref().filter(|token| token.renew()) else { return Ok(response) };
                    authorize(&mut call.parts.headers, token);
                    continue;
                }
                Ok(Ok(response)) if code(&response) != Code::Unavailable => {
                    self.budget.succeeded();
                    return Ok(response);
                }
                // Only another address may help now. A health check finds out when this one serves again.
                Ok(Ok(response)) => {
                    checkout.check();
                    if !(may_retry && others) {
                        return Ok(response);
                    }
                    self.unavailable()
                }
                Ok(Err(CallError::NotSent)) => {
                    checkout.check();
                    continue;
                }
                Ok(Err(CallError::Lost(error))) => {
                    checkout.check();
                    // Not UNAVAILABLE, which would say that the call had no effect.
                    Status::unknown(format!("the connection to {} was lost: {error}", self.name))
                }
                Err(_) => {
                    checkout.check();
                    timed_out()
                }
            };
            if !may_retry || Instant::now() >= call.deadline {
                return Err(failed);
            }
            self.budget.retried();
            self.metrics.retried(&record.method);
            (retried, avoided) = (true, Some(checkout.address()));
        }
        Err(self.unavailable())
    }

    fn unavailable(&self) -> Status {
        Status::unavailable(format!("{} does not respond", self.name))
    }
}

fn timed_out() -> Status {
    Status::deadline_exceeded("the call timed out")
}

#[cfg(test)]
mod tests;

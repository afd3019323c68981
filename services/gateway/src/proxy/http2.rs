//! Connections to endpoints by HTTP/2, for gRPC: one a thread and endpoint, shared by its calls.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync;

use super::{http1, outgoing::Outgoing};
use crate::metrics::UpstreamError;

/// A peer is asked whether it is there this often while calls wait for it, and has so long for its answer.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// The connection of a thread to an endpoint, if there is one.
#[derive(Default)]
pub(super) struct Shared {
    sender: Mutex<Option<SendRequest<Outgoing>>>,
    /// One connects, others wait for it; with how that ended last, where it failed.
    connecting: sync::Mutex<Option<(io::ErrorKind, String)>>,
    /// How often it failed.
    failures: AtomicUsize,
}

impl Shared {
    /// The connection, which is made where there is none. Who waits while another one connects gets what that gets, a
    /// failure too: else each would wait for its own after those of all before it.
    pub(super) async fn get(&self, address: SocketAddr, limit: Duration) -> io::Result<SendRequest<Outgoing>> {
        if let Some(sender) = self.open() {
            return Ok(sender);
        }
        let failures = self.failures.load(Ordering::Relaxed);
        let mut failure = self.connecting.lock().await;
        if let Some(sender) = self.open() {
            return Ok(sender);
        }
        if self.failures.load(Ordering::Relaxed) != failures
            && let Some((kind, reason)) = &*failure
        {
            return Err(io::Error::new(*kind, reason.clone()));
        }
        let connected = connect(address, limit).await;
        match &connected {
            Ok(sender) => *self.lock() = Some(sender.clone()),
            Err(error) => {
                *failure = Some((error.kind(), error.to_string()));
                self.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
        connected
    }

    /// Lets go of it; calls in flight end.
    pub(super) fn close(&self) {
        *self.lock() = None;
    }

    fn open(&self) -> Option<SendRequest<Outgoing>> {
        self.lock().as_ref().filter(|sender| !sender.is_closed()).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<SendRequest<Outgoing>>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connect(address: SocketAddr, limit: Duration) -> io::Result<SendRequest<Outgoing>> {
    let stream = http1::connect(address, limit).await?;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_TIMEOUT);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // It ends when its last sender is gone, or its peer.
    tokio::spawn(connection);
    Ok(sender)
}

/// What an error is called in the metrics.
pub(super) fn kind(error: &hyper::Error) -> UpstreamError {
    if error.is_parse() { UpstreamError::Protocol } else { UpstreamError::Reset }
}

/// Why a call has no answer.
pub(super) struct Failure {
    pub(super) error: hyper::Error,
    /// Nothing of it was sent; its body is as it was.
    pub(super) is_unsent: bool,
}

/// Sends a call and waits for the head of its answer.
pub(super) async fn send(
    sender: &mut SendRequest<Outgoing>,
    request: Request<Outgoing>,
) -> Result<Response<Incoming>, Failure> {
    sender.try_send_request(request).await.map_err(|mut error| {
        let is_unsent = error.take_message().is_some();
        Failure { error: error.into_error(), is_unsent }
    })
}

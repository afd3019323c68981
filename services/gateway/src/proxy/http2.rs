//! The gateway's HTTP/2 client, for gRPC: one connection per thread and endpoint, shared by its calls.

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

use super::{connect::connect as connect_tcp, replayable_body::UpstreamBody};
use crate::metrics::UpstreamError;

/// How often a peer is pinged while calls are in flight, and how long it may take to acknowledge a ping.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// The connection of one thread to one endpoint, if there is one.
#[derive(Default)]
pub(super) struct SharedConnection {
    sender: Mutex<Option<SendRequest<UpstreamBody>>>,
    /// Held by the call that connects, while others wait. Holds the last failure.
    connecting: sync::Mutex<Option<(io::ErrorKind, String)>>,
    /// How often connecting failed.
    failures: AtomicUsize,
}

impl SharedConnection {
    /// Returns the connection, or opens one. Calls that wait while another one connects share its outcome, even a
    /// failure: otherwise each would connect in turn, and time out after all calls before it.
    pub(super) async fn get(&self, address: SocketAddr, limit: Duration) -> io::Result<SendRequest<UpstreamBody>> {
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

    /// Forgets the connection, which closes when the calls in flight have ended.
    pub(super) fn close(&self) {
        *self.lock() = None;
    }

    fn open(&self) -> Option<SendRequest<UpstreamBody>> {
        self.lock().as_ref().filter(|sender| !sender.is_closed()).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<SendRequest<UpstreamBody>>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connect(address: SocketAddr, limit: Duration) -> io::Result<SendRequest<UpstreamBody>> {
    let stream = connect_tcp(address, limit).await?;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_TIMEOUT);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // The task ends when the last sender is dropped or the peer closes the connection.
    tokio::spawn(connection);
    Ok(sender)
}

pub(super) fn kind(error: &hyper::Error) -> UpstreamError {
    if error.is_parse() { UpstreamError::Protocol } else { UpstreamError::Reset }
}

/// Why a call got no response head.
pub(super) struct SendError {
    pub(super) error: hyper::Error,
    /// Whether nothing of the call was sent, so that its body is untouched.
    pub(super) is_unsent: bool,
}

/// Sends a call and waits for the head of its response.
pub(super) async fn send(
    sender: &mut SendRequest<UpstreamBody>,
    request: Request<UpstreamBody>,
) -> Result<Response<Incoming>, SendError> {
    sender.try_send_request(request).await.map_err(|mut error| {
        let is_unsent = error.take_message().is_some();
        SendError { error: error.into_error(), is_unsent }
    })
}

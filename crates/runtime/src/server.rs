//! The HTTP server: HTTP/1.1 and HTTP/2 without TLS on one port, time limits for slow clients, and a stop that
//! answers every request whose bytes have arrived.

mod app;
mod body;
mod framing;
mod io;
mod streams;
mod timer;
mod workers;

use std::{
    convert::Infallible,
    io::ErrorKind,
    net::{SocketAddr, TcpListener as StdListener},
    time::Duration,
};

use http::{HeaderValue, Request, StatusCode, Version, header};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    pin, select, time,
};
use tokio_util::task::TaskTracker;

use crate::lifecycle::{Lifecycle, Phase};
use framing::MAX_HEAD;
use io::Connection;
use streams::{Answer, Streams};
use timer::ConnectionTimer;

pub use app::{App, Peer};
pub use body::RequestBody;
pub use workers::Workers;

/// How long a client may take to send a request's head. hyper's limit for it is its limit for an idle connection too,
/// so this is also the keep-alive, and must be longer than [`CLIENT_IDLE_TIMEOUT`].
pub const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How long our own HTTP clients keep an idle connection: less than any server here, so that a client never sends on
/// a connection that its server is closing.
pub const CLIENT_IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take nothing at all of what is being sent to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How old an HTTP/2 connection gets before GOAWAY, after which its streams go on to their ends, but for those of a client
/// that takes nothing for [`WRITE_TIMEOUT`]: one that answers pings and opens no window is noticed by no other limit, as
/// nothing is written to it. The age also brings clients to new replicas.
const HTTP_2_AGE: Duration = Duration::from_mins(5);

/// Once stopping, how long an idle connection may still bring a request: one that its client sent before it could
/// know. Far longer than a request is under way between two machines of a cluster. And how long an HTTP/2 connection
/// that is accepted while draining is served before GOAWAY.
const LAST_CALL: Duration = Duration::from_millis(250);

/// The most headers of a request.
const MAX_HEADERS: usize = 100;

/// Most HTTP/2 streams of one connection at a time. As many may be given up at once before they were looked at, as when
/// a service that calls another loses its own clients; hyper's limit for that, 20, would end the calls of all others too.
const MAX_STREAMS: u32 = 256;

/// The server's time limits; other values than the default are for tests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) header_read_timeout: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) http_2_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { header_read_timeout: HEADER_READ_TIMEOUT, write_timeout: WRITE_TIMEOUT, http_2_age: HTTP_2_AGE }
    }
}

/// How a listener is served.
#[derive(Default)]
pub struct Server {
    pub(crate) limits: Limits,
    pub(crate) workers: Workers,
    strict: bool,
}

impl Server {
    /// Serves the connections on these threads, each of which has one for its whole life.
    #[must_use]
    pub fn on(mut self, workers: Workers) -> Self {
        self.workers = workers;
        self
    }

    /// Refuses, with 400, requests of whose length there can be two opinions. For one who passes requests on, and does
    /// not know what a proxy before it, or a server behind it, makes of them.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// Serves until the lifecycle reaches [`Phase::Stopping`] and every connection is done.
    pub(crate) async fn serve(self, listener: TcpListener, app: impl App, lifecycle: Lifecycle) {
        let connections = TaskTracker::new();
        let stopping = lifecycle.reached(Phase::Stopping);
        pin!(stopping);
        let serve = |stream, address| {
            let (app, lifecycle, limits, strict) = (app.clone(), lifecycle.clone(), self.limits, self.strict);
            self.workers.spawn(&connections, stream, async move |stream, worker| {
                handle(stream, app, Peer { address, worker }, lifecycle, limits, strict).await;
            });
        };
        loop {
            let accepted = select! {
                accepted = listener.accept() => accepted,
                () = &mut stopping => break,
            };
            match accepted {
                Ok((stream, address)) => serve(stream, address),
                Err(error) => rest_after(&error).await,
            }
        }
        if let Ok(listener) = listener.into_std() {
            for (stream, address) in backlog(&listener) {
                serve(stream, address);
            }
        }
        connections.close();
        connections.wait().await;
    }
}

/// After an error of `accept`: of one connection that is gone, or of this process being out of file descriptors.
async fn rest_after(error: &std::io::Error) {
    use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        tracing::error!(%error, "cannot accept connections");
        time::sleep(Duration::from_millis(100)).await;
    }
}

/// Connections that the kernel had accepted before the listener closes: their requests may have arrived.
fn backlog(listener: &StdListener) -> impl Iterator<Item = (TcpStream, SocketAddr)> {
    std::iter::from_fn(|| {
        let (stream, address) = listener.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        Some((TcpStream::from_std(stream).ok()?, address))
    })
}

/// Serves one connection to its end.
async fn handle(stream: TcpStream, app: impl App, peer: Peer, lifecycle: Lifecycle, limits: Limits, strict: bool) {
    let accepted = lifecycle.phase();
    // A failure to set it only costs latency.
    let _ = stream.set_nodelay(true);
    let mut connection = Connection::new(stream, limits.write_timeout);
    let upgraded = connection.upgraded();
    let last_call = async {
        lifecycle.reached(Phase::Stopping).await;
        time::sleep(LAST_CALL).await;
    };
    pin!(last_call);
    // The connection before the clock, here and below: bytes that have arrived by then are looked at first.
    let sniffed = select! {
        biased;
        sniffed = time::timeout(limits.header_read_timeout, connection.sniff()) => sniffed,
        () = &mut last_call => return,
    };
    let Ok(Ok(version)) = sniffed else { return };
    if strict && version < Version::HTTP_2 {
        connection.watch_framing();
    }
    let streams = (version == Version::HTTP_2).then(Streams::default);
    let service = service_fn({
        let (lifecycle, streams) = (lifecycle.clone(), streams.clone());
        move |request: Request<Incoming>| {
            let (app, lifecycle, upgraded) = (app.clone(), lifecycle.clone(), upgraded.clone());
            let stream = streams.as_ref().map(Streams::begin);
            let version = request.version();
            async move {
                let (parts, body) = request.into_parts();
                let (body, ended) = RequestBody::new(body);
                let mut response = app.respond(Request::from_parts(parts, body), peer).await;
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    upgraded.set();
                // hyper waits for no rest of a body that nobody reads: it closes the connection, and does not say so.
                } else if version < Version::HTTP_2 && (lifecycle.phase() > Phase::Serving || !ended.get()) {
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response.map(|body| Answer::new(body, stream)))
            }
        }
    });
    let io = TokioIo::new(connection);
    // How a connection ended is its client's affair: there is nothing to do about it here.
    if let Some(streams) = streams {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(limits.header_read_timeout)
            .max_concurrent_streams(MAX_STREAMS)
            .max_pending_accept_reset_streams(MAX_STREAMS as usize)
            .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
            .serve_connection(io, service);
        pin!(connection);
        let goaway = async {
            match accepted {
                Phase::Serving => {
                    let _ = time::timeout(limits.http_2_age, lifecycle.reached(Phase::Draining)).await;
                }
                // It came for an answer: with GOAWAY at once, its client would only connect again and again.
                Phase::Draining | Phase::Stopping => time::sleep(LAST_CALL).await,
            }
        };
        select! {
            biased;
            _ = connection.as_mut() => return,
            () = goaway => connection.as_mut().graceful_shutdown(),
        }
        select! {
            biased;
            _ = connection => {}
            () = streams.stuck_for(limits.write_timeout) => {}
        }
    } else {
        let connection = http1::Builder::new()
            .timer(ConnectionTimer::new(limits.header_read_timeout))
            .header_read_timeout(limits.header_read_timeout)
            .max_header_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .serve_connection(io, service)
            .with_upgrades();
        pin!(connection);
        select! {
            biased;
            _ = connection.as_mut() => return,
            () = last_call => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }
}

#[cfg(test)]
mod tests;

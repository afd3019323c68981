//! The HTTP server: HTTP/1.1 and HTTP/2 without TLS on one port, timeouts for slow clients, and a graceful stop that
//! responds to every request that has arrived.

mod app;
mod body;
mod connection_limit;
mod connection_timer;
mod framing;
mod io;
mod streams;
mod workers;

use std::{
    convert::Infallible,
    io::ErrorKind,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::Duration,
};

use http::{HeaderValue, Request, StatusCode, Version, header};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    pin, select, task, time,
};
use tokio_util::task::TaskTracker;

use crate::{
    lifecycle::{Lifecycle, Phase},
    request::should_log_refusal,
};
use connection_limit::{ConnectionLimit, Slot};
use connection_timer::ConnectionTimer;
use framing::{MAX_HEAD, Progress};
use io::Connection;
use streams::{PIECE, ResponseBody, Stream, Streams};

pub use app::{App, Peer, ReadDeadline};
pub use body::RequestBody;
pub use connection_limit::client_network;
pub use workers::Workers;

/// How long a client may take to send the head of a request. hyper applies this limit to idle connections too, so it is
/// also the keep-alive timeout and must be longer than [`CLIENT_IDLE_TIMEOUT`].
pub const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long Hedgerow's HTTP clients keep an idle connection. It is shorter than the timeout of its servers, so that a
/// client never sends on a connection that the server is closing.
pub const CLIENT_IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a write may make no progress because the client does not read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The age at which an HTTP/2 connection gets GOAWAY. Its streams may finish, unless the client reads nothing for the
/// [`WRITE_TIMEOUT`]. No other limit catches a client that responds to pings but never opens its window, because
/// nothing is written to it. The maximum age also moves clients to new replicas.
const HTTP_2_AGE: Duration = Duration::from_mins(5);

/// How long an idle connection may still deliver a request after the stop begins: its client may have sent one before
/// it learned of the stop. It is far longer than a request takes to cross a cluster. An HTTP/2 connection that is
/// accepted while draining is served for this long before GOAWAY.
const STOP_GRACE: Duration = Duration::from_millis(250);

/// How much the kernel keeps for a client that does not read, in bytes. More than that it only takes to send at once.
/// Without a limit it would take megabytes, which count as the memory of the pod.
const MAX_UNSENT: u32 = 64 * 1024;

/// The maximum number of headers of an HTTP/1 request.
pub const MAX_HEADERS: usize = 100;

/// The maximum number of concurrent HTTP/2 streams of a connection. A client may reset as many at once before they are
/// accepted, as a service does when it loses its own clients. hyper's default of 20 such resets would close the
/// connection, and all its other streams with it.
const MAX_STREAMS: u32 = 256;

/// How much of a request body is received before it is read, in bytes.
const STREAM_WINDOW: u32 = 64 * 1024;

/// The timeouts of a server. Only tests change them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    pub(crate) request_head_timeout: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) http_2_age: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { request_head_timeout: REQUEST_HEAD_TIMEOUT, write_timeout: WRITE_TIMEOUT, http_2_age: HTTP_2_AGE }
    }
}

/// The settings for serving a listener.
#[derive(Default)]
pub struct Server {
    pub(crate) timeouts: Timeouts,
    pub(crate) workers: Workers,
    mode: Mode,
    max_connections: Option<(u32, u32)>,
}

/// How connections are treated.
#[derive(Debug, Clone, Copy, Default)]
struct Mode {
    strict: bool,
    is_shared: bool,
}

impl Server {
    /// Serves connections on these threads. A connection stays on one thread.
    #[must_use]
    pub fn on(mut self, workers: Workers) -> Self {
        self.workers = workers;
        self
    }

    /// Rejects requests with ambiguous framing with 400. A proxy needs this: the proxies before it and the servers
    /// behind it may read such a request differently.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.mode.strict = true;
        self
    }

    /// Expects that a connection carries requests of several clients, because its peer is a trusted proxy. What one of
    /// them does must not end the requests of the others.
    #[must_use]
    pub fn shared(mut self, is_shared: bool) -> Self {
        self.mode.is_shared = is_shared;
        self
    }

    /// Limits the number of connections that are served at once, and of those of one client: an IPv4 address or an IPv6
    /// /64. An HTTP/2 connection counts as eight of its client. Any more are reset, but beyond the limit of all, the
    /// connection that has been idle longest is closed instead, if there is an idle one.
    #[must_use]
    pub fn limit_connections(mut self, max: u32, max_per_client: u32) -> Self {
        self.max_connections = Some((max, max_per_client));
        self
    }

    /// Serves until the lifecycle reaches [`Phase::Stopping`] and every connection is done.
    pub(crate) async fn serve(self, listener: TcpListener, app: impl App, lifecycle: Lifecycle) {
        let connections = TaskTracker::new();
        let stopping = lifecycle.reached(Phase::Stopping);
        pin!(stopping);
        let (max, max_per_client) = self.max_connections.unwrap_or((u32::MAX, u32::MAX));
        let limit = Arc::new(ConnectionLimit::new(max, max_per_client));
        let serve = |stream, address| {
            let Some(slot) = limit.admit(address) else { return refuse(&stream, address) };
            let (app, lifecycle, timeouts, mode) = (app.clone(), lifecycle.clone(), self.timeouts, self.mode);
            self.workers.spawn(&connections, stream, async move |stream, worker| {
                handle(stream, slot, app, Peer { address, worker }, lifecycle, timeouts, mode).await;
            });
        };
        loop {
            let accepted = select! {
                accepted = listener.accept() => accepted,
                () = &mut stopping => break,
            };
            match accepted {
                Ok((stream, address)) => serve(stream, address),
                Err(error) => pause_after(&error).await,
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

/// Handles an error of `accept`. If it does not concern a single connection, as when file descriptors run out, waits
/// before the next attempt.
async fn pause_after(error: &std::io::Error) {
    use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        tracing::error!(%error, "cannot accept connections");
        time::sleep(Duration::from_millis(100)).await;
    }
}

/// Returns the connections that the kernel has accepted already: their requests may have arrived.
fn backlog(listener: &StdListener) -> impl Iterator<Item = (TcpStream, SocketAddr)> {
    std::iter::from_fn(|| {
        let (stream, address) = listener.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        Some((TcpStream::from_std(stream).ok()?, address))
    })
}

/// Makes a connection beyond the limit close with a reset: closed in the usual way it would still cost memory.
fn refuse(stream: &TcpStream, address: SocketAddr) {
    let _ = stream.set_zero_linger();
    if should_log_refusal() {
        tracing::warn!(client = %address.ip(), "connection refused: too many connections");
    }
}

/// Serves one connection to its end.
async fn handle(
    stream: TcpStream,
    slot: Slot,
    app: impl App,
    peer: Peer,
    lifecycle: Lifecycle,
    timeouts: Timeouts,
    Mode { strict, is_shared }: Mode,
) {
    let (accepted, activity) = (lifecycle.phase(), slot.activity());
    // A failure to set these only costs latency, or memory.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_notsent_lowat(MAX_UNSENT);
    let mut connection = Connection::new(stream, slot, timeouts.write_timeout);
    let (upgraded, deadline) = (connection.upgraded(), connection.write_deadline());
    let grace_over = async {
        lifecycle.reached(Phase::Stopping).await;
        time::sleep(STOP_GRACE).await;
    };
    pin!(grace_over);
    // The connection is polled before the timer, here and below, so that bytes that have arrived count.
    let sniffed = select! {
        biased;
        sniffed = time::timeout(timeouts.request_head_timeout, connection.sniff()) => sniffed,
        () = &mut grace_over => return,
        () = activity.closing() => return,
    };
    let Ok(Ok(version)) = sniffed else { return };
    if version == Version::HTTP_2 && !connection.count_as_http_2() {
        return refuse(connection.stream(), peer.address);
    }
    let progress = Progress::default();
    if strict && version < Version::HTTP_2 {
        connection.watch_framing(progress.clone());
    }
    let streams = (version == Version::HTTP_2).then(|| Streams::new(timeouts.write_timeout));
    let service = service_fn({
        let (lifecycle, activity) = (lifecycle.clone(), activity.clone());
        move |request: Request<Incoming>| {
            let active = activity.begin();
            let (app, lifecycle, progress, activity) =
                (app.clone(), lifecycle.clone(), progress.clone(), activity.clone());
            let (upgraded, deadline) = (upgraded.clone(), deadline.clone());
            let version = request.version();
            async move {
                let stream = Stream::current();
                if strict && stream.is_some() {
                    // hyper drops streams that are reset already when it has polled them once. For a proxy, to start
                    // serving one costs the service behind it a connection.
                    task::yield_now().await;
                }
                let (parts, body) = request.into_parts();
                let (body, ended) = RequestBody::new(body);
                let mut response = app.respond(Request::from_parts(parts, body), peer).await;
                let has_unchecked = progress.respond();
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    upgraded.set();
                    activity.set_upgraded();
                // hyper closes the connection if the body was not read to its end, but does not announce it.
                } else if version < Version::HTTP_2
                    && (lifecycle.phase() > Phase::Serving || activity.is_closing() || !ended.get() || has_unchecked)
                {
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                let read_by = response.extensions().get::<ReadDeadline>().map(|deadline| deadline.0);
                match (&stream, read_by) {
                    (Some(stream), Some(read_by)) => stream.set_deadline(read_by),
                    (Some(_), None) => {}
                    (None, read_by) => deadline.set(read_by),
                }
                Ok::<_, Infallible>(response.map(|body| ResponseBody::new(body, stream, active)))
            }
        }
    });
    let io = TokioIo::new(connection);
    // Errors of a connection are ignored: there is nothing to do about them.
    if let Some(streams) = streams {
        let connection = http_2(streams.clone(), timeouts).serve_connection(io, service);
        pin!(connection);
        let goaway = async {
            match accepted {
                Phase::Serving => {
                    let _ = time::timeout(timeouts.http_2_age, lifecycle.reached(Phase::Draining)).await;
                }
                // With an immediate GOAWAY its client would only reconnect, again and again.
                Phase::Draining | Phase::Stopping => time::sleep(STOP_GRACE).await,
            }
        };
        select! {
            biased;
            _ = connection.as_mut() => return,
            () = goaway => connection.as_mut().graceful_shutdown(),
            () = activity.closing() => connection.as_mut().graceful_shutdown(),
            () = streams.flooded(), if strict => connection.as_mut().graceful_shutdown(),
        }
        select! {
            biased;
            _ = connection => {}
            () = streams.stalled() => {}
            // Of a shared connection, the proxy opens another one for the next requests.
            () = streams.flooded(), if strict && !is_shared => {}
        }
    } else {
        let connection = http_1(timeouts).serve_connection(io, service).with_upgrades();
        pin!(connection);
        select! {
            biased;
            _ = connection.as_mut() => return,
            () = grace_over => connection.as_mut().graceful_shutdown(),
            () = activity.closing() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }
}

fn http_1(timeouts: Timeouts) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(ConnectionTimer::new(timeouts.request_head_timeout))
        .header_read_timeout(timeouts.request_head_timeout)
        .max_header_size(MAX_HEAD)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS);
    builder
}

fn http_2(streams: Streams, timeouts: Timeouts) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(timeouts.request_head_timeout)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        // As much as all streams may send: one whose body is not read must not hold up the others, which may be those
        // of other clients of a proxy.
        .initial_connection_window_size(STREAM_WINDOW * MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_STREAMS as usize)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .max_send_buf_size(PIECE);
    builder
}

#[cfg(test)]
mod tests;

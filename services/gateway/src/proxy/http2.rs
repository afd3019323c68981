//! The gateway's HTTP/2 client, for gRPC.
//!
//! A connection carries the calls of one client at a time. Calls that share a connection share its windows, its streams
//! and the peer's tolerance of resets: a client that uses them up must not stop the calls of others. Within a
//! connection, the window covers what every stream may send, so that a response that nobody reads holds up no other.

use std::{
    future::poll_fn,
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
    rt::Executor,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use runtime::CLIENT_IDLE_TIMEOUT;
use tokio::{net::TcpStream, sync::watch, time};

use super::{
    connect::connect as connect_tcp,
    replayable_body::{RequestBodyError, UpstreamBody},
};
use crate::metrics::UpstreamError;

/// How often a peer is pinged while calls are in flight, and how long it may take to acknowledge a ping.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a peer may take to send its settings, which limit the streams.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(5);

/// The maximum number of streams of a connection, if its peer does not allow fewer. Our services allow as many.
const MAX_STREAMS: u32 = 256;

/// How much of a response is buffered for a client that does not read, in bytes.
const STREAM_WINDOW: u32 = 64 * 1024;

/// The connections of one thread to one endpoint. Their number is limited by that of the calls in flight.
#[derive(Default)]
pub(super) struct Pool {
    connections: Mutex<Vec<Pooled>>,
}

struct Pooled {
    /// The network of the client whose calls it carries, or carried until it became idle.
    client: u128,
    /// When its last call started.
    used: Instant,
    streams: Arc<AtomicUsize>,
    state: watch::Receiver<State>,
}

/// A connection, from the attempt to open it. Calls that wait for it share the outcome.
enum State {
    Connecting,
    Open {
        sender: SendRequest<CallBody>,
        /// How many streams it may have.
        limit: Arc<AtomicUsize>,
    },
    Failed(ErrorKind, String),
}

/// A stream of a connection, for one call.
pub(super) struct Stream {
    sender: SendRequest<CallBody>,
    slot: Arc<Slot>,
}

/// Counts a stream until its call has ended and no more of the request is to be sent.
struct Slot(Arc<AtomicUsize>);

/// The body of a call.
struct CallBody {
    body: UpstreamBody,
    _slot: Arc<Slot>,
}

/// Why a call got no response head.
pub(super) struct SendError {
    pub(super) error: hyper::Error,
    /// Whether nothing of the call was sent, so that its body is untouched.
    pub(super) is_unsent: bool,
}

impl Pool {
    /// Reserves a stream for a call of a client: on a connection that carries the client's calls, on an idle one, or on
    /// a new one.
    ///
    /// # Errors
    /// Returns an error if a new connection is needed and cannot be opened. Connecting may take `timeout`.
    pub(super) async fn stream(&self, client: u128, address: SocketAddr, timeout: Duration) -> io::Result<Stream> {
        loop {
            let mut state = match self.reserve(client, address, timeout) {
                Ok(stream) => return Ok(stream),
                Err(state) => state,
            };
            let state = state.wait_for(|state| !matches!(state, State::Connecting)).await.map_err(io::Error::other)?;
            if let State::Failed(kind, reason) = &*state {
                return Err(io::Error::new(*kind, reason.clone()));
            }
            // Others may have waited for the same connection, and may have taken all of its streams.
        }
    }

    /// Reserves a stream, or returns the connection to wait for.
    fn reserve(&self, client: u128, address: SocketAddr, timeout: Duration) -> Result<Stream, watch::Receiver<State>> {
        let mut connections = self.lock();
        connections.retain(Pooled::is_usable);
        let is_own = |pooled: &&mut Pooled| pooled.client == client && pooled.has_room();
        let pooled = match connections.iter_mut().find(is_own) {
            Some(own) => Some(own),
            None => connections.iter_mut().find(|pooled| pooled.is_idle()),
        };
        if let Some(stream) = pooled.and_then(|pooled| pooled.reserve(client)) {
            return Ok(stream);
        }
        let is_connecting = |pooled: &&Pooled| pooled.client == client && pooled.is_connecting();
        if let Some(pooled) = connections.iter().find(is_connecting) {
            return Err(pooled.state.clone());
        }
        let state = connect(address, timeout);
        connections.push(Pooled { client, used: Instant::now(), streams: Arc::default(), state: state.clone() });
        Err(state)
    }

    /// Forgets connections that have been idle for too long, which closes them.
    pub(super) fn sweep(&self, now: Instant) {
        let is_expired = |pooled: &Pooled| now.duration_since(pooled.used) >= CLIENT_IDLE_TIMEOUT;
        self.lock().retain(|pooled| !(pooled.is_idle() && is_expired(pooled)));
    }

    /// Forgets all connections, which close when the calls in flight have ended.
    pub(super) fn close(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Pooled>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pooled {
    fn is_usable(&self) -> bool {
        match &*self.state.borrow() {
            State::Connecting => self.state.has_changed().is_ok(),
            State::Open { sender, .. } => !sender.is_closed(),
            State::Failed(..) => false,
        }
    }

    fn is_connecting(&self) -> bool {
        matches!(&*self.state.borrow(), State::Connecting)
    }

    fn has_room(&self) -> bool {
        match &*self.state.borrow() {
            State::Open { limit, .. } => self.streams.load(Ordering::Relaxed) < limit.load(Ordering::Relaxed),
            _ => false,
        }
    }

    /// Whether it has room, and carries no call.
    fn is_idle(&self) -> bool {
        self.streams.load(Ordering::Relaxed) == 0 && self.has_room()
    }

    fn reserve(&mut self, client: u128) -> Option<Stream> {
        let state = self.state.borrow();
        let State::Open { sender, .. } = &*state else { return None };
        (self.client, self.used) = (client, Instant::now());
        self.streams.fetch_add(1, Ordering::Relaxed);
        Some(Stream { sender: sender.clone(), slot: Arc::new(Slot(self.streams.clone())) })
    }
}

impl Stream {
    /// Sends a call and waits for the head of its response.
    pub(super) async fn send(&mut self, request: Request<UpstreamBody>) -> Result<Response<Incoming>, SendError> {
        let request = request.map(|body| CallBody { body, _slot: self.slot.clone() });
        self.sender.try_send_request(request).await.map_err(|mut error| {
            let is_unsent = error.take_message().is_some();
            SendError { error: error.into_error(), is_unsent }
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Body for CallBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

type Connection = http2::Connection<TokioIo<TcpStream>, CallBody, Tasks>;

/// Opens a connection in a task of its own, which goes on if the call that wanted it is gone: others may wait for it.
fn connect(address: SocketAddr, timeout: Duration) -> watch::Receiver<State> {
    let (state, receiver) = watch::channel(State::Connecting);
    tokio::spawn(async move {
        match handshake(address, timeout).await {
            Ok((sender, mut connection)) => {
                let limit = Arc::new(AtomicUsize::new(max_streams(&connection)));
                state.send_replace(State::Open { sender, limit: limit.clone() });
                // The connection ends when the peer closes it, or the last sender is dropped.
                drop(state);
                poll_fn(|cx| {
                    let ended = Pin::new(&mut connection).poll(cx);
                    limit.store(max_streams(&connection), Ordering::Relaxed);
                    ended.map(|_| ())
                })
                .await;
            }
            Err(error) => _ = state.send_replace(State::Failed(error.kind(), error.to_string())),
        }
    });
    receiver
}

/// Connects, and waits for the peer's settings.
async fn handshake(address: SocketAddr, timeout: Duration) -> io::Result<(SendRequest<CallBody>, Connection)> {
    let stream = connect_tcp(address, timeout).await?;
    let tasks = Tasks::default();
    let mut builder = http2::Builder::new(tasks.clone());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        // None until the settings arrive.
        .initial_max_send_streams(0)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * MAX_STREAMS);
    let (sender, mut connection) = builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let settings = poll_fn(|cx| {
        tasks.ran.register(cx.waker());
        match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Err(ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(io::Error::other(error))),
            Poll::Pending if max_streams(&connection) == 0 => Poll::Pending,
            Poll::Pending => Poll::Ready(Ok(())),
        }
    });
    time::timeout(SETTINGS_TIMEOUT, settings).await??;
    Ok((sender, connection))
}

/// How many streams the peer allows now; 0 if it has not sent its settings.
fn max_streams(connection: &Connection) -> usize {
    connection.current_max_send_streams().min(MAX_STREAMS as usize)
}

/// Runs the tasks of a connection. hyper reads settings in one of them and does not report it, so whoever waits for
/// settings is woken whenever a task has run.
#[derive(Clone, Default)]
struct Tasks {
    ran: Arc<AtomicWaker>,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, future: F) {
        let ran = self.ran.clone();
        tokio::spawn(async move {
            let mut future = pin!(future);
            poll_fn(|cx| {
                let ended = future.as_mut().poll(cx);
                ran.wake();
                ended
            })
            .await;
        });
    }
}

pub(super) fn kind(error: &hyper::Error) -> UpstreamError {
    if error.is_parse() { UpstreamError::Protocol } else { UpstreamError::Reset }
}

//! A connection, from the first byte to the last.

use std::{
    future::poll_fn,
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    task::Poll,
    time::Duration,
};

use futures_util::task::AtomicWaker;
use hyper::{
    client::conn::http2::{self, SendRequest},
    rt::Executor,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpStream, sync::watch, task::AbortHandle, time};

use super::{SETTINGS_TIMEOUT, call::CallBody};
use crate::proxy::connect::connect as connect_tcp;

/// How often a peer is pinged while calls are in flight, and how long it may take to acknowledge a ping.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// The maximum number of streams of a connection, if its peer does not allow fewer. Our services allow as many.
const MAX_STREAMS: u32 = 256;

/// How much of a response is buffered for a client that does not read, in bytes.
const STREAM_WINDOW: u32 = 64 * 1024;

/// A connection, from the attempt to open it. Calls that wait for it share the outcome.
pub(super) enum State {
    Connecting,
    Open(Open),
    Failed(ErrorKind, String),
}

pub(super) struct Open {
    pub(super) sender: SendRequest<CallBody>,
    connection: Shared,
    /// The task that reads and writes.
    task: Option<AbortHandle>,
}

/// A connection that a task drives; `None` once it has ended. It knows how many streams the peer allows, which hyper
/// does not report when it changes.
type Shared = Arc<Mutex<Option<Connection>>>;

impl Open {
    /// How many streams the connection may have now.
    pub(super) fn max_streams(&self) -> usize {
        lock(&self.connection).as_ref().map_or(0, max_streams)
    }

    /// Closes the connection, even if a peer neither reads the rest of a request nor resets its stream.
    pub(super) fn close(&self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

type Connection = http2::Connection<TokioIo<TcpStream>, CallBody, Tasks>;

/// Opens a connection in a task of its own, which goes on if the call that wanted it is gone: others may wait for it.
pub(super) fn connect(address: SocketAddr, timeout: Duration) -> watch::Receiver<State> {
    let (state, receiver) = watch::channel(State::Connecting);
    tokio::spawn(async move {
        match handshake(address, timeout).await {
            Ok(open) => {
                let connection = open.connection.clone();
                state.send_replace(State::Open(open));
                // The connection ends when the peer closes it, or the last sender is dropped.
                drop(state);
                poll_fn(|cx| {
                    let mut shared = lock(&connection);
                    let ended = shared.as_mut().map_or(Poll::Ready(()), |open| Pin::new(open).poll(cx).map(|_| ()));
                    if ended.is_ready() {
                        // This closes its senders.
                        *shared = None;
                    }
                    ended
                })
                .await;
            }
            Err(error) => _ = state.send_replace(State::Failed(error.kind(), error.to_string())),
        }
    });
    receiver
}

/// Connects, and waits for the peer's settings.
async fn handshake(address: SocketAddr, timeout: Duration) -> io::Result<Open> {
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
    let task = tasks.first.get().cloned();
    Ok(Open { sender, connection: Arc::new(Mutex::new(Some(connection))), task })
}

fn lock(connection: &Shared) -> MutexGuard<'_, Option<Connection>> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// The first one, which reads and writes.
    first: Arc<OnceLock<AbortHandle>>,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, future: F) {
        let ran = self.ran.clone();
        let task = tokio::spawn(async move {
            let mut future = pin!(future);
            poll_fn(|cx| {
                let ended = future.as_mut().poll(cx);
                ran.wake();
                ended
            })
            .await;
        });
        self.first.get_or_init(|| task.abort_handle());
    }
}

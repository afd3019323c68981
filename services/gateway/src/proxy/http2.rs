//! The gateway's HTTP/2 client, for gRPC.
//!
//! A connection carries the calls of one client at a time. Calls that share a connection share its windows, its streams
//! and the peer's tolerance of resets: a client that uses them up must not stop the calls of others. So other clients
//! only get a connection that is idle, and on which no call was cut off. Within a connection, the window covers what
//! every stream may send, so that a response that nobody reads holds up no other.

mod call;
mod connection;

use std::{
    error::Error as _,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use h2::Reason;
use runtime::CLIENT_IDLE_TIMEOUT;
use tokio::{sync::watch, time};

use call::Load;
pub(super) use call::Stream;
use connection::{State, connect};

use crate::metrics::UpstreamError;

/// How long a peer may take to send its settings, which limit the streams, and to allow the stream of a call.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(5);

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
    load: Arc<Load>,
    state: watch::Receiver<State>,
}

impl Pool {
    /// Reserves a stream for a call of a client: on a connection that carries the client's calls, on an idle one, or on
    /// a new one.
    ///
    /// # Errors
    /// Returns an error if a new connection is needed and cannot be opened. Connecting may take `timeout`.
    pub(super) async fn stream(&self, client: u128, address: SocketAddr, timeout: Duration) -> io::Result<Stream> {
        // Whoever waits for others first has no more time.
        time::timeout(timeout + SETTINGS_TIMEOUT, self.wait_for_stream(client, address, timeout)).await?
    }

    async fn wait_for_stream(&self, client: u128, address: SocketAddr, timeout: Duration) -> io::Result<Stream> {
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
            None => connections.iter_mut().find(|pooled| pooled.is_idle() && !pooled.is_spoiled()),
        };
        if let Some(stream) = pooled.and_then(|pooled| pooled.reserve(client)) {
            return Ok(stream);
        }
        let is_connecting = |pooled: &&Pooled| pooled.client == client && pooled.is_connecting();
        if let Some(pooled) = connections.iter().find(is_connecting) {
            return Err(pooled.state.clone());
        }
        let state = connect(address, timeout);
        connections.push(Pooled { client, used: Instant::now(), load: Arc::default(), state: state.clone() });
        Err(state)
    }

    /// Closes connections that have carried no call for too long.
    pub(super) fn sweep(&self, now: Instant) {
        self.lock().retain(|pooled| {
            let is_expired = now.duration_since(pooled.used) >= CLIENT_IDLE_TIMEOUT;
            let is_open = !is_expired || pooled.is_connecting() || pooled.load.calls.load(Ordering::Relaxed) > 0;
            if !is_open && let State::Open(open) = &*pooled.state.borrow() {
                open.close();
            }
            is_open
        });
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
    /// Whether it is open, and its peer allows streams. One without streams that allows none is of no use.
    fn is_usable(&self) -> bool {
        match &*self.state.borrow() {
            State::Connecting => self.state.has_changed().is_ok(),
            State::Open(open) => !open.sender.is_closed() && (self.streams() > 0 || open.max_streams() > 0),
            State::Failed(..) => false,
        }
    }

    fn is_connecting(&self) -> bool {
        matches!(&*self.state.borrow(), State::Connecting)
    }

    fn has_room(&self) -> bool {
        match &*self.state.borrow() {
            State::Open(open) => self.streams() < open.max_streams(),
            _ => false,
        }
    }

    /// Whether it has room, and carries no call.
    fn is_idle(&self) -> bool {
        self.streams() == 0 && self.has_room()
    }

    fn is_spoiled(&self) -> bool {
        self.load.is_spoiled.load(Ordering::Relaxed)
    }

    fn streams(&self) -> usize {
        self.load.streams.load(Ordering::Relaxed)
    }

    fn reserve(&mut self, client: u128) -> Option<Stream> {
        let state = self.state.borrow();
        let State::Open(open) = &*state else { return None };
        (self.client, self.used) = (client, Instant::now());
        Some(Stream::new(open.sender.clone(), self.load.clone()))
    }
}

pub(super) fn kind(error: &hyper::Error) -> UpstreamError {
    if error.is_parse() { UpstreamError::Protocol } else { UpstreamError::Reset }
}

/// Why a stream ended that was reset. The code is that of the peer, if the peer has reset it.
struct Reset {
    by_peer: Option<Reason>,
}

impl Reset {
    /// `None` if something else has failed, such as the connection.
    fn of(error: &hyper::Error) -> Option<Self> {
        let error: &h2::Error = error.source()?.downcast_ref()?;
        error.is_reset().then(|| Self { by_peer: error.reason().filter(|_| error.is_remote()) })
    }

    fn is_refusal(&self) -> bool {
        self.by_peer == Some(Reason::REFUSED_STREAM)
    }

    /// Whether the peer may have done it although nothing is wrong with it: because of what the client does, or of the
    /// load. Three such resets must not eject an endpoint.
    fn is_benign(&self) -> bool {
        const BENIGN: [Reason; 4] =
            [Reason::NO_ERROR, Reason::CANCEL, Reason::REFUSED_STREAM, Reason::ENHANCE_YOUR_CALM];
        self.by_peer.is_some_and(|reason| BENIGN.contains(&reason))
    }
}

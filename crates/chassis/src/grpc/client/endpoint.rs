//! One address of a peer. It reconnects whenever its connection ends, and tracks whether the address is usable.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::uri::Authority;
use tokio::{
    select,
    sync::{Notify, watch},
    time::{self, Instant},
};

use super::{
    availability::AddressLog,
    connection::{Connection, Sender},
};

/// The pause before a failed address is retried. It doubles up to the maximum. Up to a quarter is subtracted at random,
/// so that the replicas of a service do not reconnect all at once.
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// If a connection ends sooner than this, its address counts as failed.
const MIN_UPTIME: Duration = Duration::from_secs(1);

/// Signals from the endpoints to the pool.
pub(super) struct Signals {
    /// An endpoint was added, removed or changed its state.
    pub(super) changed: watch::Sender<()>,
    /// An endpoint failed: resolve the hosts again.
    pub(super) failed: Notify,
}

/// An address of a peer.
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    pub(super) authority: Authority,
    state: Mutex<State>,
    in_flight: AtomicUsize,
    check_due: Notify,
}

/// The state of an endpoint.
#[derive(Clone)]
pub(super) enum State {
    /// A connection attempt or a health check is in progress.
    Connecting,
    Ready(Sender),
    /// Unusable until a retry succeeds.
    Failed,
}

impl Endpoint {
    pub(super) fn new(address: SocketAddr, authority: Authority) -> Self {
        let state = Mutex::new(State::Connecting);
        Self { address, authority, state, in_flight: AtomicUsize::new(0), check_due: Notify::new() }
    }

    pub(super) fn state(&self) -> State {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match state {
            // The peer sent GOAWAY: a new connection is being opened.
            State::Ready(sender) if sender.is_closed() => State::Connecting,
            state => state,
        }
    }

    /// Returns the number of calls in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Requests a health check, because a call got no response.
    pub(super) fn check(&self) {
        self.check_due.notify_one();
    }

    /// Keeps the endpoint connected.
    pub(super) async fn keep(self: Arc<Self>, peer: &'static str, signals: Arc<Signals>) {
        let mut pause = MIN_PAUSE;
        let mut log = AddressLog::new(peer, self.address);
        loop {
            let opened = Connection::open(self.address, &self.authority).await;
            log.log(&opened);
            if let Ok(connection) = opened {
                let opened_at = Instant::now();
                self.offer(connection, &signals).await;
                if opened_at.elapsed() >= MIN_UPTIME {
                    // The connection reached its maximum age, or the peer restarted.
                    pause = MIN_PAUSE;
                    self.set(State::Connecting, &signals);
                    signals.failed.notify_one();
                    continue;
                }
            }
            self.set(State::Failed, &signals);
            signals.failed.notify_one();
            time::sleep(pause.mul_f64(1.0 - rand::random_range(0.0..0.25))).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Makes a connection available until it ends or a health check fails.
    async fn offer(&self, mut connection: Connection, signals: &Signals) {
        loop {
            self.set(State::Ready(connection.sender.clone()), signals);
            select! {
                () = connection.ended() => return,
                () = self.check_due.notified() => {}
            }
            self.set(State::Connecting, signals);
            if !connection.still_serves().await {
                return;
            }
        }
    }

    fn set(&self, state: State, signals: &Signals) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        signals.changed.send_replace(());
    }
}

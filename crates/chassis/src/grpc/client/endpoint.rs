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

use super::connection::{Connection, Sender};

/// The pause before a failed address is retried. It doubles up to the maximum. Up to a quarter is subtracted at random,
/// so that the replicas of a service do not reconnect all at once.
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// How long a connection lasts at least: after a shorter one the address counts as failed.
const SOUND: Duration = Duration::from_secs(1);

/// How long an address may fail before that is worth a warning: services start in any order.
const WARN_AFTER: Duration = Duration::from_secs(5);

/// Decides which connection attempts are worth a log line: changes, but neither every connection nor short outages.
#[derive(Default)]
struct Availability {
    /// The state that was logged last.
    logged: Option<bool>,
    failing_since: Option<Instant>,
}

impl Availability {
    /// Notes the result of an attempt; returns whether to log it.
    fn update(&mut self, is_connected: bool, now: Instant) -> bool {
        let is_settled = if is_connected {
            self.failing_since = None;
            true
        } else {
            now.duration_since(*self.failing_since.get_or_insert(now)) >= WARN_AFTER
        };
        is_settled && self.logged.replace(is_connected) != Some(is_connected)
    }
}

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
        let address = self.address;
        let mut availability = Availability::default();
        loop {
            let opened = Connection::open(address, &self.authority).await;
            let is_news = availability.update(opened.is_ok(), Instant::now());
            match &opened {
                Ok(_) if is_news => tracing::info!(peer, %address, "peer connected"),
                Err(reason) if is_news => tracing::warn!(peer, %address, reason, "peer unavailable"),
                Err(reason) => tracing::debug!(peer, %address, reason, "connection attempt failed"),
                Ok(_) => {}
            }
            if let Ok(connection) = opened {
                let begun = Instant::now();
                self.offer(connection, &signals).await;
                if begun.elapsed() >= SOUND {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether each attempt is logged, given its time in seconds and its result.
    fn logged(attempts: &[(u64, bool)]) -> Vec<bool> {
        let (mut availability, start) = (Availability::default(), Instant::now());
        let attempts = attempts.iter();
        attempts.map(|(second, ok)| availability.update(*ok, start + Duration::from_secs(*second))).collect()
    }

    #[test]
    fn a_peer_that_starts_later_causes_no_warning() {
        assert_eq!(
            logged(&[(0, false), (1, false), (4, false), (5, true), (60, true)]),
            [false, false, false, true, false]
        );
    }

    #[test]
    fn a_peer_that_stays_unavailable_causes_one_warning() {
        assert_eq!(logged(&[(0, false), (5, false), (6, false), (7, true)]), [false, true, false, true]);
        assert_eq!(logged(&[(0, true), (10, false), (14, false), (15, false)]), [true, false, false, true]);
    }

    #[test]
    fn a_short_outage_is_not_logged() {
        assert_eq!(
            logged(&[(0, true), (10, false), (12, true), (20, false), (24, false)]),
            [true, false, false, false, false]
        );
    }
}

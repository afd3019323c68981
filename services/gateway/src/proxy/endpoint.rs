//! One endpoint of a service: its load, its health and its connections.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus::IntGauge;
use runtime::CLIENT_IDLE_TIMEOUT;

use super::{health::Health, http1::Connection, http2::Pool};

/// How many idle connections each thread keeps.
const MAX_IDLE: usize = 128;

pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    /// The address as text.
    pub(super) label: Box<str>,
    pub(super) health: Health,
    in_flight: AtomicUsize,
    /// Whether discovery has dropped it.
    retired: AtomicBool,
    workers: Box<[Connections]>,
}

/// The connections of one thread. Only the sweeper takes the lock on another thread, so it is hardly ever contended.
#[derive(Default)]
struct Connections {
    idle: Mutex<Vec<Idle>>,
    http2: Pool,
}

struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

impl Endpoint {
    pub(super) fn new(address: SocketAddr, workers: usize) -> Self {
        Self {
            address,
            label: address.to_string().into(),
            health: Health::default(),
            in_flight: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            workers: (0..workers.max(1)).map(|_| Connections::default()).collect(),
        }
    }

    /// The number of requests whose response is not complete.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Takes the connection that has been idle for the shortest time.
    pub(super) fn take_idle(&self, worker: usize) -> Option<Box<Connection>> {
        let mut idle = self.workers[worker].idle.lock().unwrap_or_else(PoisonError::into_inner);
        let Idle { connection, since } = idle.pop()?;
        if since.elapsed() < CLIENT_IDLE_TIMEOUT {
            return Some(connection);
        }
        // The others have been idle for even longer.
        idle.clear();
        None
    }

    /// Keeps a connection for the next request.
    pub(super) fn put_idle(&self, worker: usize, mut connection: Box<Connection>) {
        let mut idle = self.workers[worker].idle.lock().unwrap_or_else(PoisonError::into_inner);
        // Checked under the lock, because `retire` clears the list after it sets the flag.
        if idle.len() < MAX_IDLE && !self.retired.load(Ordering::SeqCst) {
            connection.set_idle();
            idle.push(Idle { connection, since: Instant::now() });
        }
    }

    pub(super) fn http2(&self, worker: usize) -> &Pool {
        &self.workers[worker].http2
    }

    /// Closes connections that have been idle for too long.
    pub(super) fn sweep(&self, now: Instant) {
        for worker in &self.workers {
            let mut idle = worker.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let expired = idle.partition_point(|idle| now.duration_since(idle.since) >= CLIENT_IDLE_TIMEOUT);
            idle.drain(..expired);
            drop(idle);
            worker.http2.sweep(now);
        }
    }

    /// Closes idle connections and keeps no more. Requests in flight are completed.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        for worker in &self.workers {
            worker.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
            worker.http2.close();
        }
    }
}

/// Counts a request as in flight until it is dropped.
pub(super) struct InFlightGuard {
    endpoint: Arc<Endpoint>,
    service: IntGauge,
}

impl InFlightGuard {
    pub(super) fn new(endpoint: Arc<Endpoint>, service: &IntGauge) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        service.inc();
        Self { endpoint, service: service.clone() }
    }

    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.service.dec();
    }
}

/// The right to probe an endpoint, which other requests do not get until it is dropped.
pub(super) struct Probe {
    endpoint: Arc<Endpoint>,
    id: u64,
}

impl Probe {
    /// Starts a probe; `None` if another request has just started one. `now` is the time since the proxy started.
    pub(super) fn start(endpoint: &Arc<Endpoint>, now: Duration) -> Option<Self> {
        let id = endpoint.health.start_probe(now)?;
        Some(Self { endpoint: endpoint.clone(), id })
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.endpoint.health.end_probe(self.id);
    }
}

//! One endpoint of a service: how busy it is, how well it is, and its connections.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use prometheus::IntGauge;
use runtime::CLIENT_IDLE_TIMEOUT;

use super::{health::Health, http1, http2};

/// The most idle connections that a thread keeps to an endpoint.
const IDLE: usize = 128;

/// An address that answers requests.
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    /// The address as text.
    pub(super) label: Box<str>,
    pub(super) health: Health,
    in_flight: AtomicUsize,
    /// Discovery does not know it any more.
    left: AtomicBool,
    workers: Box<[Connections]>,
}

/// The connections of one thread. No other thread uses them, so the lock is free but for the sweeper.
#[derive(Default)]
struct Connections {
    idle: Mutex<Vec<Idle>>,
    grpc: http2::Shared,
}

struct Idle {
    connection: Box<http1::Connection>,
    since: Instant,
}

impl Endpoint {
    pub(super) fn new(address: SocketAddr, workers: usize) -> Self {
        Self {
            address,
            label: address.to_string().into(),
            health: Health::default(),
            in_flight: AtomicUsize::new(0),
            left: AtomicBool::new(false),
            workers: (0..workers.max(1)).map(|_| Connections::default()).collect(),
        }
    }

    /// Requests that wait for its answer, or for the rest of it.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The connection that was idle for the shortest time, if there is one.
    pub(super) fn take(&self, worker: usize) -> Option<Box<http1::Connection>> {
        let mut idle = self.workers[worker].idle.lock().unwrap_or_else(PoisonError::into_inner);
        let Idle { connection, since } = idle.pop()?;
        if since.elapsed() < CLIENT_IDLE_TIMEOUT {
            return Some(connection);
        }
        // The others were idle for longer.
        idle.clear();
        None
    }

    /// Keeps a connection for the next request.
    pub(super) fn put(&self, worker: usize, connection: Box<http1::Connection>) {
        let mut idle = self.workers[worker].idle.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at under the lock: who leaves it clears it afterwards.
        if idle.len() < IDLE && !self.left.load(Ordering::SeqCst) {
            idle.push(Idle { connection, since: Instant::now() });
        }
    }

    pub(super) fn grpc(&self, worker: usize) -> &http2::Shared {
        &self.workers[worker].grpc
    }

    /// Closes connections that were idle for too long.
    pub(super) fn sweep(&self, now: Instant) {
        for worker in &self.workers {
            let mut idle = worker.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let old = idle.partition_point(|idle| now.duration_since(idle.since) >= CLIENT_IDLE_TIMEOUT);
            idle.drain(..old);
        }
    }

    /// Lets go of idle connections and takes none back; requests in flight end.
    pub(super) fn leave(&self) {
        self.left.store(true, Ordering::SeqCst);
        for worker in &self.workers {
            worker.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
            worker.grpc.close();
        }
    }
}

/// A request that an endpoint handles, until it is dropped.
pub(super) struct Lease {
    endpoint: Arc<Endpoint>,
    service: IntGauge,
}

impl Lease {
    pub(super) fn new(endpoint: Arc<Endpoint>, service: &IntGauge) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        service.inc();
        Self { endpoint, service: service.clone() }
    }

    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.service.dec();
    }
}

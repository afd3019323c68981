//! A service as requests are sent to it: its endpoints, and the choice among them.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};

use super::{budget::Budget, endpoint::Endpoint, health::State};
use crate::metrics::{Metrics, ServiceMetrics};

/// A service; it stays the same while its endpoints come and go.
pub(crate) struct Upstream {
    pub(crate) name: Box<str>,
    pub(super) http: Group,
    /// Where its gRPC requests go, if it takes any.
    pub(super) grpc: Group,
    takes_grpc: AtomicUsize,
    pub(super) budget: Budget,
    pub(crate) metrics: ServiceMetrics,
}

/// Endpoints any of which will do.
pub(super) struct Group {
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    /// How many threads serve connections: each has connections of its own.
    workers: usize,
    /// Of two that fail at once on two threads one is to be left.
    ejecting: Mutex<()>,
}

impl Upstream {
    pub(crate) fn new(name: &str, metrics: &Metrics, workers: usize) -> Self {
        let group = || Group { endpoints: ArcSwap::default(), workers, ejecting: Mutex::default() };
        Self {
            name: name.into(),
            http: group(),
            grpc: group(),
            takes_grpc: AtomicUsize::new(0),
            budget: Budget::default(),
            metrics: metrics.service(name),
        }
    }

    /// Where a request goes; `None` for gRPC to a service that takes none.
    pub(super) fn group(&self, grpc: bool) -> Option<&Group> {
        if !grpc {
            return Some(&self.http);
        }
        (self.takes_grpc.load(Ordering::Relaxed) > 0).then_some(&self.grpc)
    }

    pub(super) fn set_endpoints(&self, http: &[SocketAddr], grpc: Option<&[SocketAddr]>) {
        self.http.set(http);
        self.grpc.set(grpc.unwrap_or_default());
        self.takes_grpc.store(grpc.is_some().into(), Ordering::Relaxed);
    }

    /// All endpoints.
    pub(super) fn for_each_endpoint(&self, mut visit: impl FnMut(&Endpoint)) {
        for group in [&self.http, &self.grpc] {
            group.endpoints.load().iter().for_each(|endpoint| visit(endpoint));
        }
    }
}

impl Group {
    /// Takes these addresses and lets go of others. What is known of those that stay is kept.
    fn set(&self, addresses: &[SocketAddr]) {
        let before = self.endpoints.load();
        if before.iter().map(|endpoint| endpoint.address).eq(addresses.iter().copied()) {
            return;
        }
        let known = |address| before.iter().find(|endpoint| endpoint.address == address).cloned();
        let endpoint = |address| known(address).unwrap_or_else(|| Arc::new(Endpoint::new(address, self.workers)));
        let now: Vec<_> = addresses.iter().copied().map(endpoint).collect();
        self.endpoints.store(Arc::new(now));
        for endpoint in before.iter().filter(|endpoint| !addresses.contains(&endpoint.address)) {
            endpoint.leave();
        }
    }

    pub(super) fn endpoints(&self) -> Guard<Arc<Vec<Arc<Endpoint>>>> {
        self.endpoints.load()
    }

    /// Chooses the endpoint for a request: of two by chance, the one with fewer requests in flight. Those that are left
    /// out, and those that were tried already, are chosen only where there is no other.
    pub(super) fn pick(&self, tried: &[SocketAddr], now: Duration) -> Option<Arc<Endpoint>> {
        let endpoints = self.endpoints.load();
        if let [only] = endpoints.as_slice() {
            return Some(only.clone());
        }
        let is_usable = |endpoint: &Endpoint| match endpoint.health.state(now) {
            State::Well => true,
            State::OnTrial => endpoint.in_flight() == 0,
            State::Ejected => false,
        };
        let is_new = |endpoint: &Endpoint| !tried.contains(&endpoint.address);
        less_busy(&endpoints, |endpoint| is_usable(endpoint) && is_new(endpoint))
            .or_else(|| less_busy(&endpoints, is_new))
            .or_else(|| less_busy(&endpoints, is_usable))
            .or_else(|| less_busy(&endpoints, |_| true))
            .cloned()
    }

    /// Whether there is an endpoint that works, as far as is known, besides these.
    pub(super) fn has_another(&self, tried: &[SocketAddr], now: Duration) -> bool {
        let works = |endpoint: &Endpoint| endpoint.health.state(now) == State::Well;
        self.endpoints.load().iter().any(|endpoint| works(endpoint) && !tried.contains(&endpoint.address))
    }

    /// Leaves an endpoint out for a time, if it is not the last; returns whether it is.
    pub(super) fn eject(&self, endpoint: &Endpoint, time: Duration, now: Duration) -> bool {
        let _ejecting = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let is_left_out = self.has_another(&[endpoint.address], now);
        if is_left_out {
            endpoint.health.eject(time, now);
        }
        is_left_out
    }
}

/// The less busy one of two by chance, among those that will do.
fn less_busy(endpoints: &[Arc<Endpoint>], will_do: impl Fn(&Endpoint) -> bool) -> Option<&Arc<Endpoint>> {
    let count = endpoints.len();
    if count == 0 {
        return None;
    }
    // Where one will not do, the next one that does stands in.
    let from = |start: usize, other_than: Option<usize>| {
        let places = (start..count).chain(0..start);
        places.into_iter().find(|place| Some(*place) != other_than && will_do(&endpoints[*place]))
    };
    let first = from(rand::random_range(0..count), None)?;
    let Some(second) = from(rand::random_range(0..count), Some(first)) else { return Some(&endpoints[first]) };
    let (first, second) = (&endpoints[first], &endpoints[second]);
    Some(if second.in_flight() < first.in_flight() { second } else { first })
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    #[test]
    fn of_two_that_fail_at_once_on_two_threads_one_is_left() {
        let (now, time) = (Duration::from_secs(1), Duration::from_secs(1));
        let group = Group { endpoints: ArcSwap::default(), workers: 1, ejecting: Mutex::default() };
        group.set(&[1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port))));
        let [first, second] = [0, 1].map(|place| group.endpoints()[place].clone());
        let (sender, outcome) = mpsc::channel();
        thread::scope(|scope| {
            // This thread has seen that the second one works, and is about to leave out the first.
            let ejecting = group.ejecting.lock().expect("a lock");
            scope.spawn(|| sender.send(group.eject(&second, time, now)));
            assert!(outcome.recv_timeout(Duration::from_millis(100)).is_err(), "it has to wait");
            first.health.eject(time, now);
            drop(ejecting);
        });
        assert_eq!(outcome.recv(), Ok(false));
        assert!(group.has_another(&[first.address], now));
    }
}

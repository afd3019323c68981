//! A service that requests are sent to, with its endpoints, retry budget and metrics, and the choice of an endpoint for
//! each request.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;

use super::{
    endpoint::{Endpoint, Probe},
    health::State,
    retry_budget::RetryBudget,
};
use crate::{
    auth::Access,
    metrics::{Metrics, ServiceMetrics},
    protocol::Protocol,
};

/// A service, which stays the same while its endpoints come and go.
pub(crate) struct Upstream {
    pub(crate) name: Box<str>,
    http: Balancer,
    grpc: Balancer,
    /// Whether the service accepts gRPC, even if it has no endpoint right now.
    accepts_grpc: AtomicBool,
    /// The path prefixes below which the service honors `Idempotency-Key`.
    idempotency_keys: ArcSwap<Vec<String>>,
    /// Which requests are let in.
    access: ArcSwap<Access>,
    pub(super) retry_budget: RetryBudget,
    pub(crate) metrics: ServiceMetrics,
}

impl Upstream {
    pub(crate) fn new(name: &str, metrics: &Metrics, workers: usize) -> Self {
        Self {
            name: name.into(),
            http: Balancer::new(workers),
            grpc: Balancer::new(workers),
            accepts_grpc: AtomicBool::new(false),
            idempotency_keys: ArcSwap::default(),
            access: ArcSwap::default(),
            retry_budget: RetryBudget::default(),
            metrics: metrics.service(name),
        }
    }

    /// The endpoints for a protocol; `None` if the service does not accept it.
    pub(super) fn balancer(&self, protocol: Protocol) -> Option<&Balancer> {
        match protocol {
            Protocol::Http => Some(&self.http),
            Protocol::Grpc => self.accepts_grpc.load(Ordering::Relaxed).then_some(&self.grpc),
        }
    }

    /// Replaces the endpoints; `grpc` is `None` if the service does not accept gRPC.
    pub(super) fn set_endpoints(&self, http: &[SocketAddr], grpc: Option<&[SocketAddr]>) {
        self.http.set(http);
        self.grpc.set(grpc.unwrap_or_default());
        self.accepts_grpc.store(grpc.is_some(), Ordering::Relaxed);
    }

    /// Replaces the path prefixes below which the service honors `Idempotency-Key`.
    pub(super) fn set_idempotency_keys(&self, prefixes: &[String]) {
        if **self.idempotency_keys.load() != *prefixes {
            self.idempotency_keys.store(Arc::new(prefixes.to_vec()));
        }
    }

    /// Replaces the rules about which requests are let in.
    pub(super) fn set_access(&self, access: &Arc<Access>) {
        self.access.store(access.clone());
    }

    /// The rules about which requests are let in.
    pub(super) fn access(&self) -> arc_swap::Guard<Arc<Access>> {
        self.access.load()
    }

    /// Whether the service honors `Idempotency-Key` at a path.
    pub(super) fn honors_idempotency_keys(&self, path: &str) -> bool {
        self.idempotency_keys.load().iter().any(|prefix| {
            let rest = path.strip_prefix(prefix.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    pub(super) fn for_each_endpoint(&self, mut visit: impl FnMut(&Arc<Endpoint>)) {
        self.http.for_each(&mut visit);
        self.grpc.for_each(&mut visit);
    }
}

/// A set of equivalent endpoints.
pub(super) struct Balancer {
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    /// The number of threads that serve connections; each has its own connections to every endpoint.
    workers: usize,
    /// Serializes ejections, so that two threads cannot eject the last two endpoints.
    ejecting: Mutex<()>,
}

/// An endpoint that was chosen for an attempt.
pub(super) struct Choice {
    pub(super) endpoint: Arc<Endpoint>,
    /// Set if the attempt probes the endpoint, and held until its outcome is recorded, unless the client is slow.
    pub(super) probe: Option<Probe>,
}

impl Balancer {
    pub(super) fn new(workers: usize) -> Self {
        Self { endpoints: ArcSwap::default(), workers, ejecting: Mutex::default() }
    }

    /// Replaces the endpoints. Those that stay keep their state, and those that go are retired.
    pub(super) fn set(&self, addresses: &[SocketAddr]) {
        let before = self.endpoints.load();
        if before.iter().map(|endpoint| endpoint.address).eq(addresses.iter().copied()) {
            return;
        }
        let known = before.iter().map(|endpoint| (endpoint.address, endpoint.clone()));
        let create = |address: &SocketAddr| Arc::new(Endpoint::new(*address, self.workers));
        let Merged { entries, removed } = merge(known, addresses.iter().copied(), create);
        self.endpoints.store(Arc::new(entries));
        for endpoint in removed {
            endpoint.retire();
        }
    }

    pub(super) fn for_each(&self, visit: impl FnMut(&Arc<Endpoint>)) {
        self.endpoints.load().iter().for_each(visit);
    }

    /// Chooses the less loaded of two random endpoints. Endpoints that are ejected or being probed, and those that were
    /// tried already, are chosen only if there is no other.
    pub(super) fn choose(&self, tried: &[SocketAddr], now: Duration) -> Option<Choice> {
        loop {
            let endpoint = self.pick(tried, now)?;
            if !endpoint.health.is_due_for_probe(now) {
                return Some(Choice { endpoint, probe: None });
            }
            // If another request starts to probe it at the same time, the choice is made again.
            if let Some(probe) = Probe::start(&endpoint, now) {
                return Some(Choice { endpoint, probe: Some(probe) });
            }
        }
    }

    fn pick(&self, tried: &[SocketAddr], now: Duration) -> Option<Arc<Endpoint>> {
        let endpoints = self.endpoints.load();
        if let [only] = endpoints.as_slice() {
            return Some(only.clone());
        }
        let usable = |endpoint: &Endpoint| match endpoint.health.state(now) {
            State::Healthy => Some(endpoint.in_flight()),
            // What is in flight is older than the ejection. If it is a stream, it may stay for hours.
            State::Probing => endpoint.health.is_due_for_probe(now).then_some(0),
            State::Ejected => None,
        };
        let is_untried = |endpoint: &Endpoint| !tried.contains(&endpoint.address);
        less_loaded(&endpoints, |endpoint| usable(endpoint).filter(|_| is_untried(endpoint)))
            .or_else(|| less_loaded(&endpoints, |endpoint| is_untried(endpoint).then(|| endpoint.in_flight())))
            .or_else(|| less_loaded(&endpoints, usable))
            .or_else(|| less_loaded(&endpoints, |endpoint| Some(endpoint.in_flight())))
            .cloned()
    }

    /// Whether there is an endpoint that was not tried.
    pub(super) fn has_untried(&self, tried: &[SocketAddr]) -> bool {
        self.endpoints.load().iter().any(|endpoint| !tried.contains(&endpoint.address))
    }

    /// Whether there is a healthy endpoint that was not tried.
    pub(super) fn has_healthy_besides(&self, tried: &[SocketAddr], now: Duration) -> bool {
        let is_healthy = |endpoint: &Endpoint| endpoint.health.state(now) == State::Healthy;
        self.endpoints.load().iter().any(|endpoint| is_healthy(endpoint) && !tried.contains(&endpoint.address))
    }

    /// Ejects an endpoint for a time, unless it is the last healthy one; returns whether it did.
    pub(super) fn eject(&self, endpoint: &Endpoint, time: Duration, now: Duration) -> bool {
        let _ejecting = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let may_eject = self.has_healthy_besides(&[endpoint.address], now);
        if may_eject {
            endpoint.health.eject(time, now);
        }
        may_eject
    }
}

/// The less loaded of two random endpoints, among those that have a load.
fn less_loaded(endpoints: &[Arc<Endpoint>], load: impl Fn(&Endpoint) -> Option<usize>) -> Option<&Arc<Endpoint>> {
    let count = endpoints.len();
    if count == 0 {
        return None;
    }
    // The next endpoint that has a load replaces one that has none.
    let from = |start: usize, other_than: Option<usize>| {
        let mut indices = (start..count).chain(0..start).filter(|index| Some(*index) != other_than);
        indices.find_map(|index| Some((index, load(&endpoints[index])?)))
    };
    let (first, load) = from(rand::random_range(0..count), None)?;
    let second = from(rand::random_range(0..count), Some(first));
    let index = second.filter(|(_, less)| *less < load).map_or(first, |(second, _)| second);
    Some(&endpoints[index])
}

/// The outcome of [`merge`].
#[derive(Debug, PartialEq)]
struct Merged<V> {
    /// One entry per wanted key, in that order.
    entries: Vec<V>,
    /// The known entries that are not wanted.
    removed: Vec<V>,
}

/// Takes the wanted entries from the known ones, and creates those that are new. This takes linear time: it runs on the
/// thread that accepts connections, for services with thousands of endpoints.
fn merge<K: Eq + Hash + Clone, V>(
    known: impl Iterator<Item = (K, V)>,
    wanted: impl Iterator<Item = K>,
    create: impl Fn(&K) -> V,
) -> Merged<V> {
    let mut known: HashMap<K, V> = known.collect();
    let mut seen = HashSet::new();
    let mut entries = Vec::new();
    for key in wanted {
        if seen.insert(key.clone()) {
            entries.push(known.remove(&key).unwrap_or_else(|| create(&key)));
        }
    }
    Merged { entries, removed: known.into_values().collect() }
}

#[cfg(test)]
mod tests;

//! Chooses an endpoint for each request.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;

use super::{endpoint::Endpoint, health::State};

/// A set of equivalent endpoints.
pub(super) struct Balancer {
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    /// The number of threads that serve connections; each has its own connections to every endpoint.
    workers: usize,
    /// Serialises ejections, so that two threads cannot eject the last two endpoints.
    ejecting: Mutex<()>,
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

    /// Chooses the less loaded of two random endpoints. Endpoints that are ejected, and those that were tried already,
    /// are chosen only if there is no other.
    pub(super) fn pick(&self, tried: &[SocketAddr], now: Duration) -> Option<Arc<Endpoint>> {
        let endpoints = self.endpoints.load();
        if let [only] = endpoints.as_slice() {
            return Some(only.clone());
        }
        let is_usable = |endpoint: &Endpoint| match endpoint.health.state(now) {
            State::Healthy => true,
            State::Probing => endpoint.in_flight() == 0,
            State::Ejected => false,
        };
        let is_untried = |endpoint: &Endpoint| !tried.contains(&endpoint.address);
        less_loaded(&endpoints, |endpoint| is_usable(endpoint) && is_untried(endpoint))
            .or_else(|| less_loaded(&endpoints, is_untried))
            .or_else(|| less_loaded(&endpoints, is_usable))
            .or_else(|| less_loaded(&endpoints, |_| true))
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

/// The less loaded of two random endpoints, among the eligible ones.
fn less_loaded(endpoints: &[Arc<Endpoint>], is_eligible: impl Fn(&Endpoint) -> bool) -> Option<&Arc<Endpoint>> {
    let count = endpoints.len();
    if count == 0 {
        return None;
    }
    // The next eligible endpoint replaces one that is not.
    let from = |start: usize, other_than: Option<usize>| {
        let indices = (start..count).chain(0..start);
        indices.into_iter().find(|index| Some(*index) != other_than && is_eligible(&endpoints[*index]))
    };
    let first = from(rand::random_range(0..count), None)?;
    let Some(second) = from(rand::random_range(0..count), Some(first)) else { return Some(&endpoints[first]) };
    let (first, second) = (&endpoints[first], &endpoints[second]);
    Some(if second.in_flight() < first.in_flight() { second } else { first })
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
mod tests {
    use std::{cell::Cell, hash::Hasher, ops::Range, sync::mpsc, thread};

    use super::*;

    #[test]
    fn concurrent_ejections_leave_one_endpoint() {
        let (now, time) = (Duration::from_secs(1), Duration::from_secs(1));
        let balancer = Balancer::new(1);
        balancer.set(&[1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port))));
        let endpoints = balancer.endpoints.load_full();
        let (first, second) = (&endpoints[0], &endpoints[1]);
        let (sender, outcome) = mpsc::channel();
        thread::scope(|scope| {
            // This thread has seen that the second endpoint is healthy, and is about to eject the first.
            let ejecting = balancer.ejecting.lock().expect("a lock");
            scope.spawn(|| sender.send(balancer.eject(second, time, now)));
            assert!(outcome.recv_timeout(Duration::from_millis(100)).is_err(), "it has to wait");
            first.health.eject(time, now);
            drop(ejecting);
        });
        assert_eq!(outcome.recv(), Ok(false));
        assert!(balancer.has_healthy_besides(&[first.address], now));
    }

    #[test]
    fn endpoints_that_stay_are_kept_in_the_new_order() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let balancer = Balancer::new(1);
        balancer.set(&[address(1), address(2), address(3)]);
        let before = balancer.endpoints.load_full();
        balancer.set(&[address(4), address(3), address(1), address(3)]);
        let now = balancer.endpoints.load_full();
        let addresses: Vec<_> = now.iter().map(|endpoint| endpoint.address).collect();
        assert_eq!(addresses, [address(4), address(3), address(1)]);
        assert!(Arc::ptr_eq(&now[1], &before[2]) && Arc::ptr_eq(&now[2], &before[0]));
    }

    /// A key that counts how often keys are compared.
    #[derive(Clone)]
    struct Counted<'a>(usize, &'a Cell<usize>);

    impl PartialEq for Counted<'_> {
        fn eq(&self, other: &Self) -> bool {
            self.1.set(self.1.get() + 1);
            self.0 == other.0
        }
    }

    impl Eq for Counted<'_> {}

    impl Hash for Counted<'_> {
        fn hash<H: Hasher>(&self, state: &mut H) {
            self.0.hash(state);
        }
    }

    #[test]
    fn the_number_of_comparisons_grows_linearly() {
        const COUNT: usize = 10_000;
        let comparisons = Cell::new(0);
        let keys = |range: Range<usize>| range.map(|number| Counted(number, &comparisons));
        let known = keys(0..COUNT).map(|key| (key.clone(), key.0));
        let Merged { entries, mut removed } = merge(known, keys(COUNT / 2..COUNT * 3 / 2), |key| key.0);
        assert!(entries.into_iter().eq(COUNT / 2..COUNT * 3 / 2));
        removed.sort_unstable();
        assert!(removed.into_iter().eq(0..COUNT / 2));
        // One for each key that is found, and a few for hash collisions. A linear search for each key needs millions.
        assert!(comparisons.get() < 4 * COUNT, "{} comparisons of {COUNT} keys", comparisons.get());
    }
}

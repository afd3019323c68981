//! Which endpoint is chosen, and what happens to the state of endpoints when the list changes.

use std::{cell::Cell, hash::Hasher, ops::Range, sync::mpsc, thread};

use prometheus::IntGauge;

use super::*;
use crate::proxy::endpoint::InFlightGuard;

const EJECTION: Duration = Duration::from_secs(1);

/// A balancer with two endpoints, the first of which is due for a probe, and the time at which it is.
fn with_a_due_probe() -> (Balancer, Arc<Endpoint>, Duration) {
    let balancer = Balancer::new(1);
    balancer.set(&[1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port))));
    let endpoint = balancer.endpoints.load()[0].clone();
    assert!(balancer.eject(&endpoint, EJECTION, EJECTION));
    (balancer, endpoint, EJECTION * 2)
}

/// A probe of the endpoint if one starts within many choices.
fn probe(balancer: &Balancer, endpoint: &Arc<Endpoint>, now: Duration) -> Option<Probe> {
    let mut choices = (0..100).filter_map(|_| balancer.choose(&[], now));
    let choice = choices.find(|choice| Arc::ptr_eq(&choice.endpoint, endpoint))?;
    Some(choice.probe.expect("a probe"))
}

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
fn one_request_at_a_time_probes_an_endpoint() {
    let (balancer, endpoint, now) = with_a_due_probe();
    assert!(probe(&balancer, &endpoint, EJECTION * 3 / 2).is_none(), "still ejected");
    let first = probe(&balancer, &endpoint, now);
    assert!(first.is_some() && probe(&balancer, &endpoint, now).is_none());
    // Its outcome proves nothing, or it was abandoned.
    drop(first);
    let second = probe(&balancer, &endpoint, now);
    assert!(second.is_some());
    assert!(endpoint.health.succeeded(now));
    let choices = (0..100).filter_map(|_| balancer.choose(&[], now));
    assert!(choices.filter(|choice| Arc::ptr_eq(&choice.endpoint, &endpoint)).count() > 1, "healthy");
}

#[test]
fn a_probe_without_end_keeps_others_away_for_a_while_only() {
    let (balancer, endpoint, now) = with_a_due_probe();
    let first = probe(&balancer, &endpoint, now);
    let later = now + Duration::from_mins(1);
    let second = probe(&balancer, &endpoint, later);
    assert!(first.is_some() && second.is_some());
    drop(first);
    assert!(probe(&balancer, &endpoint, later).is_none(), "the second one goes on");
}

#[test]
fn open_streams_do_not_delay_a_probe() {
    let (balancer, endpoint, now) = with_a_due_probe();
    let gauge = IntGauge::new("in_flight", "in flight").expect("a metric");
    let _streams = [(); 10].map(|()| InFlightGuard::new(endpoint.clone(), &gauge));
    assert!(probe(&balancer, &endpoint, now).is_some());
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

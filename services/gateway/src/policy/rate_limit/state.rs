//! The state of the rate limiter per client and route, in a bounded amount of memory.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Shards with a lock each, so that threads seldom wait for each other.
const SHARDS: usize = 16;

/// Keys per generation of a shard. 16 shards of two generations of 8,192 keys take about 16 MB at most.
const MAX_KEYS: usize = 8192;

/// A client and a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    client: u128,
    /// A hash of the service and the route, with a random key of this process. Collisions are practically impossible,
    /// and cannot be provoked.
    route: u64,
}

/// The theoretical arrival times (TAT) of all clients.
///
/// An entry that was not used for as long as a quota takes to become full equals no entry. So each shard has two
/// generations. Used entries move to the young one; after that time the old generation is dropped as a whole, and the
/// young one takes its place. That way expired entries need not be searched for. If too many clients arrive within that
/// time, the generations change earlier, and clients that were not seen recently get a new quota. That is better than
/// refusing everybody or growing without bound.
pub(super) struct KeyedState {
    start: Instant,
    lifetime: Duration,
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Default)]
struct Shard {
    young: HashMap<Key, u64>,
    old: HashMap<Key, u64>,
    /// When the generations changed last.
    changed: u64,
}

impl KeyedState {
    /// `lifetime` is the time after which an empty quota is full again.
    pub(super) fn new(lifetime: Duration) -> Self {
        Self { start: Instant::now(), lifetime, hasher: RandomState::new(), shards: Default::default() }
    }

    /// The number by which the subject of an issuer is known.
    pub(super) fn subject(&self, issuer: &str, subject: &str) -> u128 {
        // The hash is keyed, like that of a route.
        self.hasher.hash_one((issuer, subject)).into()
    }

    /// Updates the TAT of a client. `update` also gets the current time, both in nanoseconds.
    pub(super) fn update<T>(
        &self,
        service: &str,
        route: &str,
        client: u128,
        update: impl FnOnce(u64, &mut u64) -> T,
    ) -> T {
        let now = nanoseconds(self.start.elapsed());
        self.update_at(now, service, route, client, |tat| update(now, tat))
    }

    fn update_at<T>(
        &self,
        now: u64,
        service: &str,
        route: &str,
        client: u128,
        update: impl FnOnce(&mut u64) -> T,
    ) -> T {
        let key = Key { client, route: self.hasher.hash_one((service, route)) };
        let shard = usize::try_from(self.hasher.hash_one(key) >> 32).unwrap_or_default() % SHARDS;
        let mut shard = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        let is_expired = now.saturating_sub(shard.changed) >= nanoseconds(self.lifetime);
        if is_expired || shard.young.len() >= MAX_KEYS {
            shard.changed = now;
            shard.old = std::mem::take(&mut shard.young);
        }
        let tat = shard.young.get(&key).copied().or_else(|| shard.old.remove(&key));
        let mut tat = tat.unwrap_or_default();
        let result = update(&mut tat);
        shard.young.insert(key, tat);
        result
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;
    use runtime::server::client_network;

    use super::*;
    use crate::policy::rate_limit::gcra::Gcra;

    fn size(state: &KeyedState) -> usize {
        let shards = state.shards.iter().map(|shard| shard.lock().expect("a lock"));
        shards.map(|shard| shard.young.len() + shard.old.len()).sum()
    }

    fn count(state: &KeyedState, now: u64, client: u32) -> u64 {
        state.update_at(now, "s", "/", client.into(), |requests| {
            *requests += 1;
            *requests
        })
    }

    #[test]
    fn quotas_are_per_route_and_client_or_ipv6_network() {
        let state = KeyedState::new(Duration::from_secs(1));
        let take = |service: &str, route: &str, client: &str| {
            let client = client_network(client.parse().expect("an address"));
            state.update_at(0, service, route, client, |requests| {
                *requests += 1;
                *requests
            })
        };
        assert_eq!(take("users", "/users", "192.0.2.1"), 1);
        assert_eq!(take("users", "/users", "192.0.2.2"), 1);
        assert_eq!(take("users", "/friends", "192.0.2.1"), 1);
        assert_eq!(take("inventory", "/users", "192.0.2.1"), 1);
        assert_eq!(take("users", "/users", "192.0.2.1"), 2);
        assert_eq!(take("users", "/users", "2001:db8:0:1::1"), 1);
        assert_eq!(take("users", "/users", "2001:db8:0:1:ffff::1"), 2);
        assert_eq!(take("users", "/users", "2001:db8:0:2::1"), 1);
    }

    #[test]
    fn expired_clients_are_forgotten() {
        let state = KeyedState::new(Duration::from_nanos(100));
        for client in 0..1000 {
            count(&state, 0, client);
        }
        assert_eq!(size(&state), 1000);
        // Each shard expires its own entries when it is used. So there are two rounds, each after the lifetime, of
        // enough clients to use every shard.
        for now in [100, 200] {
            for client in 5000..6000 {
                count(&state, now, client);
            }
        }
        assert_eq!(size(&state), 1000);
    }

    #[test]
    fn the_number_of_clients_is_bounded() {
        let state = KeyedState::new(Duration::from_hours(1));
        let bound = 2 * SHARDS * MAX_KEYS;
        for client in 0..u32::try_from(bound).expect("few") * 2 {
            count(&state, 0, client);
        }
        assert!((bound / 2..=bound).contains(&size(&state)), "{}", size(&state));
        // A client that keeps sending requests is never forgotten.
        for client in 0..u32::try_from(bound).expect("few") {
            if client % 1000 == 0 {
                count(&state, 0, u32::MAX);
            }
            count(&state, 0, client);
        }
        assert!(count(&state, 0, u32::MAX) > u64::try_from(bound / 1000).expect("few"));
    }

    proptest! {
        #[test]
        fn expiry_never_changes_a_decision(
            period in 1_u64..20,
            burst in 1_u32..5,
            // Enough clients for several per shard, so that one of them expires the entries of others.
            requests in proptest::collection::vec((0_u64..10, 0_u32..50), 1..500),
        ) {
            let gcra = Gcra::new(Duration::from_nanos(period), NonZeroU32::new(burst).expect("not zero"));
            let state = KeyedState::new(gcra.time_to_full());
            let mut all = HashMap::<u32, u64>::new();
            let mut now = 0;
            for (pause, client) in requests {
                now += pause;
                let decision = state.update_at(now, "s", "/", client.into(), |tat| gcra.take(now, tat));
                prop_assert_eq!(decision, gcra.take(now, all.entry(client).or_default()));
            }
        }
    }
}

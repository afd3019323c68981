//! What the limiter remembers of clients: as much as it needs to, and never more than a fixed amount.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Parts with a lock each, so that threads seldom wait for each other.
const PARTS: usize = 16;

/// Most keys of a generation of a part: 16 parts of two generations of 8,192 keys are at most some 16 MB.
const MAX_KEYS: usize = 8192;

/// A client and a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    client: u128,
    /// A hash of the service and its route, under a key of this process: two routes share one by chance alone, and
    /// practically never.
    route: u64,
}

/// The cells of all clients.
///
/// A cell that was not touched for as long as a quota takes to be whole is as good as none. So each part has two
/// generations: cells that are touched are in the younger, and whenever that time has passed the older is dropped whole
/// and the younger takes its place. No cell is ever looked for to be dropped. Where too many clients come before that,
/// the same happens earlier, and those who had not come lately get a new quota: better than to refuse everybody, or to
/// grow without bound.
pub(super) struct Memory {
    begun: Instant,
    lifetime: Duration,
    hasher: RandomState,
    parts: [Mutex<Part>; PARTS],
}

#[derive(Default)]
struct Part {
    young: HashMap<Key, u64>,
    old: HashMap<Key, u64>,
    turned: u64,
}

impl Memory {
    /// `lifetime` is how long a quota takes to be whole.
    pub(super) fn new(lifetime: Duration) -> Self {
        Self { begun: Instant::now(), lifetime, hasher: RandomState::new(), parts: Default::default() }
    }

    /// Looks a cell up and updates it; `update` gets the time in nanoseconds too.
    pub(super) fn update<T>(
        &self,
        service: &str,
        route: &str,
        client: IpAddr,
        update: impl FnOnce(u64, &mut u64) -> T,
    ) -> T {
        let now = nanoseconds(self.begun.elapsed());
        self.update_at(now, service, route, client, |cell| update(now, cell))
    }

    fn update_at<T>(
        &self,
        now: u64,
        service: &str,
        route: &str,
        client: IpAddr,
        update: impl FnOnce(&mut u64) -> T,
    ) -> T {
        let key = Key { client: network(client), route: self.hasher.hash_one((service, route)) };
        let part = usize::try_from(self.hasher.hash_one(key) >> 32).unwrap_or_default() % PARTS;
        let mut part = self.parts[part].lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = now.saturating_sub(part.turned) >= nanoseconds(self.lifetime);
        if is_due || part.young.len() >= MAX_KEYS {
            part.turned = now;
            part.old = std::mem::take(&mut part.young);
        }
        let cell = part.young.get(&key).copied().or_else(|| part.old.remove(&key));
        let mut cell = cell.unwrap_or_default();
        let answer = update(&mut cell);
        part.young.insert(key, cell);
        answer
    }
}

/// The network that counts as one client: of IPv6 a /64, as each customer has at least that many addresses.
fn network(client: IpAddr) -> u128 {
    match client {
        IpAddr::V4(address) => address.to_ipv6_mapped().into(),
        IpAddr::V6(address) => u128::from(address) & u128::from(Ipv6Addr::new(!0, !0, !0, !0, 0, 0, 0, 0)),
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;
    use crate::policy::limit::gcra::Gcra;

    fn size(memory: &Memory) -> usize {
        let parts = memory.parts.iter().map(|part| part.lock().expect("a lock"));
        parts.map(|part| part.young.len() + part.old.len()).sum()
    }

    fn count(memory: &Memory, now: u64, client: u32) -> u64 {
        memory.update_at(now, "s", "/", IpAddr::V4(client.into()), |cell| {
            *cell += 1;
            *cell
        })
    }

    #[test]
    fn routes_and_clients_are_counted_apart_and_of_ipv6_a_network_is_one_client() {
        let memory = Memory::new(Duration::from_secs(1));
        let take = |service: &str, route: &str, client: &str| {
            memory.update_at(0, service, route, client.parse().expect("an address"), |cell| {
                *cell += 1;
                *cell
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
    fn clients_that_went_away_are_forgotten() {
        let memory = Memory::new(Duration::from_nanos(100));
        for client in 0..1000 {
            count(&memory, 0, client);
        }
        assert_eq!(size(&memory), 1000);
        // Each part notices by itself, with what comes to it: two rounds, each later than a quota takes to be whole, of
        // so many clients that some come to each part.
        for now in [100, 200] {
            for client in 5000..6000 {
                count(&memory, now, client);
            }
        }
        assert_eq!(size(&memory), 1000);
    }

    #[test]
    fn however_many_clients_come_no_more_than_so_many_are_kept() {
        let memory = Memory::new(Duration::from_hours(1));
        let bound = 2 * PARTS * MAX_KEYS;
        for client in 0..u32::try_from(bound).expect("few") * 2 {
            count(&memory, 0, client);
        }
        assert!((bound / 2..=bound).contains(&size(&memory)), "{}", size(&memory));
        // One that comes all the time is not among the forgotten.
        for client in 0..u32::try_from(bound).expect("few") {
            if client % 1000 == 0 {
                count(&memory, 0, u32::MAX);
            }
            count(&memory, 0, client);
        }
        assert!(count(&memory, 0, u32::MAX) > u64::try_from(bound / 1000).expect("few"));
    }

    proptest! {
        #[test]
        fn forgetting_changes_no_verdict(
            period in 1_u64..20,
            burst in 1_u32..5,
            // Enough clients for several in each part, one of which has it drop what is old.
            requests in proptest::collection::vec((0_u64..10, 0_u32..50), 1..500),
        ) {
            let gcra = Gcra::new(Duration::from_nanos(period), NonZeroU32::new(burst).expect("not zero"));
            let memory = Memory::new(gcra.whole());
            let mut all = HashMap::<u32, u64>::new();
            let mut now = 0;
            for (pause, client) in requests {
                now += pause;
                let address = IpAddr::V4(client.into());
                let verdict = memory.update_at(now, "s", "/", address, |cell| gcra.take(now, cell));
                prop_assert_eq!(verdict, gcra.take(now, all.entry(client).or_default()));
            }
        }
    }
}

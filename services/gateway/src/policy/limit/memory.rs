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

//! Limits the connections of a listener: all of them, and those of each client.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What an HTTP/2 connection counts as among those of its client: it may have as many requests in flight as hundreds of
/// others, and costs more memory.
const HTTP_2_WEIGHT: u32 = 8;

/// Returns the network that counts as one client. For IPv6 it is a /64, since every customer has at least one.
#[must_use]
pub fn client_network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().into(),
        IpAddr::V6(address) => u128::from(address) & u128::from(Ipv6Addr::new(!0, !0, !0, !0, 0, 0, 0, 0)),
    }
}

/// The connections of a listener, and their limits.
pub(super) struct ConnectionLimit {
    max: u32,
    max_per_client: u32,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    all: u32,
    clients: HashMap<u128, u32>,
}

/// A connection that counts until this is dropped.
pub(super) struct Slot {
    limit: Arc<ConnectionLimit>,
    network: u128,
    weight: u32,
}

impl ConnectionLimit {
    pub(super) fn new(max: u32, max_per_client: u32) -> Self {
        Self { max, max_per_client, counts: Mutex::default() }
    }

    /// Counts a connection; `None` if there are too many.
    pub(super) fn admit(self: &Arc<Self>, address: SocketAddr) -> Option<Slot> {
        let network = client_network(address.ip());
        let mut counts = self.counts();
        if counts.all >= self.max || !counts.add(network, 1, self.max_per_client) {
            return None;
        }
        counts.all += 1;
        Some(Slot { limit: self.clone(), network, weight: 1 })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    /// Adds to the connections of a client, unless there would be too many.
    fn add(&mut self, network: u128, weight: u32, max: u32) -> bool {
        let count = self.clients.get(&network).copied().unwrap_or_default();
        let fits = weight <= max.saturating_sub(count);
        if fits {
            self.clients.insert(network, count + weight);
        }
        fits
    }
}

impl Slot {
    /// Counts the connection as one of HTTP/2. Returns whether its client may have it.
    pub(super) fn count_as_http_2(&mut self) -> bool {
        let more = HTTP_2_WEIGHT - self.weight;
        let fits = self.limit.counts().add(self.network, more, self.limit.max_per_client);
        if fits {
            self.weight = HTTP_2_WEIGHT;
        }
        fits
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.limit.counts();
        counts.all -= 1;
        if let Some(count) = counts.clients.get_mut(&self.network) {
            *count -= self.weight;
            if *count == 0 {
                counts.clients.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(max: u32, max_per_client: u32) -> Arc<ConnectionLimit> {
        Arc::new(ConnectionLimit::new(max, max_per_client))
    }

    fn address(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().expect("an address"), 1)
    }

    #[test]
    fn all_connections_and_those_of_a_client_are_limited() {
        let limit = limit(3, 2);
        let first = [(); 2].map(|()| limit.admit(address("192.0.2.1")).expect("a slot"));
        assert!(limit.admit(address("192.0.2.1")).is_none());
        assert!(limit.admit(address("::ffff:192.0.2.1")).is_none(), "the same client");
        let second = limit.admit(address("192.0.2.2")).expect("a slot");
        assert!(limit.admit(address("192.0.2.3")).is_none(), "too many in total");
        drop(first);
        let _third = limit.admit(address("192.0.2.1")).expect("a slot");
        drop(second);
        assert_eq!(limit.counts().clients.len(), 1, "clients without a connection cost nothing");
    }

    #[test]
    fn an_ipv6_client_is_a_64() {
        let limit = limit(9, 1);
        let _slot = limit.admit(address("2001:db8::1")).expect("a slot");
        assert!(limit.admit(address("2001:db8::ffff:1")).is_none());
        assert!(limit.admit(address("2001:db8:0:1::1")).is_some());
    }

    #[test]
    fn an_http_2_connection_counts_as_eight() {
        let limit = limit(100, 9);
        let mut first = limit.admit(address("192.0.2.1")).expect("a slot");
        assert!(first.count_as_http_2());
        let mut second = limit.admit(address("192.0.2.1")).expect("a slot");
        assert!(!second.count_as_http_2());
        assert!(limit.admit(address("192.0.2.1")).is_none());
        drop(first);
        assert!(second.count_as_http_2());
        drop(second);
        let counts = limit.counts();
        assert_eq!((counts.all, counts.clients.len()), (0, 0));
    }
}

//! Limits the connections of a listener: all of them, and those of each client. Beyond the limit of all, the connection
//! that has been idle longest makes room for a new one.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What an HTTP/2 connection counts as among those of its client: it may have as many requests in flight as hundreds of
/// others, and costs more memory.
const HTTP_2_WEIGHT: u32 = 8;

/// How long a connection must have been idle before it may be closed to make room: a request may be on its way.
const MIN_IDLE: Duration = Duration::from_millis(250);

/// How many connections that make room may still be open, as a fraction of the limit. Each closes once its client has
/// received everything.
const CLOSING_FRACTION: usize = 8;

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
    max: usize,
    max_per_client: u32,
    started: Instant,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    /// The connections that count for the limit of all, by their numbers.
    open: HashMap<u64, Arc<Activity>>,
    /// The number of the last connection.
    last: u64,
    /// How many connections make room and are not closed yet. They still count as those of their clients.
    closing: usize,
    /// Until when no connection can have been idle for long enough, as the time since the start.
    none_idle_until: Duration,
    clients: HashMap<u128, u32>,
}

/// A connection that counts until this is dropped.
pub(super) struct Slot {
    limit: Arc<ConnectionLimit>,
    number: u64,
    network: u128,
    weight: u32,
    activity: Arc<Activity>,
}

/// The requests of a connection, which is idle while it has none.
pub(super) struct Activity {
    started: Instant,
    requests: AtomicUsize,
    /// When the last request ended, in milliseconds since the start.
    idle_since: AtomicU64,
    closing: CancellationToken,
}

/// A request, which keeps its connection from being idle until this is dropped.
pub(super) struct ActiveRequest(Arc<Activity>);

impl ConnectionLimit {
    pub(super) fn new(max: u32, max_per_client: u32) -> Self {
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        Self { max, max_per_client, started: Instant::now(), counts: Mutex::default() }
    }

    /// Counts a connection; `None` if there are too many and none is idle.
    pub(super) fn admit(self: &Arc<Self>, address: SocketAddr) -> Option<Slot> {
        let network = client_network(address.ip());
        let mut counts = self.counts();
        if !counts.add(network, 1, self.max_per_client) {
            return None;
        }
        if counts.open.len() >= self.max && !counts.make_room(self.max, self.started.elapsed()) {
            counts.subtract(network, 1);
            return None;
        }
        let activity = Arc::new(Activity::new(self.started));
        counts.last += 1;
        let number = counts.last;
        counts.open.insert(number, activity.clone());
        Some(Slot { limit: self.clone(), number, network, weight: 1, activity })
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

    /// Subtracts from the connections of a client.
    fn subtract(&mut self, network: u128, weight: u32) {
        if let Some(count) = self.clients.get_mut(&network) {
            *count -= weight;
            if *count == 0 {
                self.clients.remove(&network);
            }
        }
    }

    /// Closes the connection that has been idle longest; returns whether there was one. `now` is the time since the
    /// start.
    fn make_room(&mut self, max: usize, now: Duration) -> bool {
        if now < self.none_idle_until || self.closing >= max.div_ceil(CLOSING_FRACTION) {
            return false;
        }
        let idle = self.open.iter().filter_map(|(number, activity)| Some((activity.idle_since()?, *number)));
        let longest = idle.min();
        let may_close = longest.filter(|(since, _)| now >= *since + MIN_IDLE);
        let Some(activity) = may_close.and_then(|(_, number)| self.open.remove(&number)) else {
            self.none_idle_until = longest.map_or(now, |(since, _)| since) + MIN_IDLE;
            return false;
        };
        self.closing += 1;
        activity.closing.cancel();
        true
    }
}

impl Activity {
    fn new(started: Instant) -> Self {
        let activity = Self {
            started,
            requests: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
            closing: CancellationToken::new(),
        };
        activity.set_idle();
        activity
    }

    /// Starts a request.
    pub(super) fn begin(self: &Arc<Self>) -> ActiveRequest {
        self.requests.fetch_add(1, Ordering::Relaxed);
        ActiveRequest(self.clone())
    }

    /// Keeps the connection from ever being idle again: a tunnel has no requests.
    pub(super) fn set_upgraded(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until the connection must close to make room, as soon as it has no request.
    pub(super) async fn closing(&self) {
        self.closing.cancelled().await;
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    fn set_idle(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.idle_since.store(now, Ordering::Relaxed);
    }

    /// Since when the connection has been idle, if it is, as the time since the start.
    fn idle_since(&self) -> Option<Duration> {
        let is_idle = self.requests.load(Ordering::Acquire) == 0;
        is_idle.then(|| Duration::from_millis(self.idle_since.load(Ordering::Relaxed)))
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.set_idle();
        self.0.requests.fetch_sub(1, Ordering::Release);
    }
}

impl Slot {
    pub(super) fn activity(&self) -> Arc<Activity> {
        self.activity.clone()
    }

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
        if counts.open.remove(&self.number).is_none() {
            counts.closing -= 1;
        }
        counts.subtract(self.network, self.weight);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time;

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
        assert_eq!((counts.open.len(), counts.clients.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_connection_that_has_been_idle_longest_makes_room() {
        let limit = limit(3, 9);
        let admit = || limit.admit(address("192.0.2.1"));
        let [busy, first, second] = [(); 3].map(|()| admit().expect("a slot"));
        let request = busy.activity().begin();
        time::advance(MIN_IDLE).await;
        drop(second.activity().begin());
        time::advance(MIN_IDLE / 2).await;
        let third = admit().expect("a slot");
        assert_eq!(
            [&busy, &first, &second, &third].map(|slot| slot.activity.is_closing()),
            [false, true, false, false]
        );
        drop(first);
        assert!(admit().is_none(), "no other has been idle for long");
        time::advance(MIN_IDLE / 2).await;
        let fourth = admit().expect("a slot");
        assert_eq!(
            [&busy, &second, &third, &fourth].map(|slot| slot.activity.is_closing()),
            [false, true, false, false]
        );
        drop((request, busy, second, third, fourth));
        let counts = limit.counts();
        assert_eq!((counts.open.len(), counts.closing, counts.clients.len()), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn few_connections_make_room_at_the_same_time() {
        let limit = limit(1, 9);
        let admit = || limit.admit(address("192.0.2.1"));
        let first = admit().expect("a slot");
        time::advance(MIN_IDLE).await;
        let _second = admit().expect("a slot");
        time::advance(MIN_IDLE).await;
        assert!(admit().is_none(), "the first one is not closed yet");
        drop(first);
        assert!(admit().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_is_never_idle() {
        let limit = limit(1, 9);
        let admit = || limit.admit(address("192.0.2.1"));
        let tunnel = admit().expect("a slot");
        let request = tunnel.activity().begin();
        tunnel.activity().set_upgraded();
        drop(request);
        time::advance(MIN_IDLE * 2).await;
        assert!(admit().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_beyond_its_own_limit_closes_no_connection() {
        let limit = limit(1, 1);
        let slot = limit.admit(address("192.0.2.1")).expect("a slot");
        time::advance(MIN_IDLE).await;
        assert!(limit.admit(address("192.0.2.1")).is_none());
        assert!(!slot.activity.is_closing());
        assert!(limit.admit(address("192.0.2.2")).is_some());
        assert!(slot.activity.is_closing());
    }
}

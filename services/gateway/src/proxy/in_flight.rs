//! Counts the requests in flight and the tunnels: all of them, and those of each client.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use http::StatusCode;
use prometheus::{IntCounter, IntGauge};
use runtime::Problem;

use super::{
    state::Limits,
    unread::{Held, Unread},
};
use crate::policy::Client;

/// How many refusals of requests of one client may be unread. Any more have no content, so that nothing of them is kept
/// for a client that opens no window. A client that reads them seldom has as many.
const MAX_UNREAD_REFUSALS: u32 = 256;

/// Shards with a lock each, so that threads seldom wait for each other.
const SHARDS: usize = 16;

/// The requests in flight, and their limits.
pub(super) struct InFlight {
    all: IntGauge,
    shed: IntCounter,
    max: i64,
    max_per_client: u32,
    /// All tunnels, and requests that may become one.
    tunnels: AtomicU32,
    max_tunnels: u32,
    max_tunnels_per_client: u32,
    /// What is held of all requests.
    held: Arc<Held>,
    hasher: RandomState,
    clients: [Mutex<Shard>; SHARDS],
}

/// By the network of the client.
type Shard = HashMap<u128, Counts>;

/// The requests of a client.
#[derive(Default)]
struct Counts {
    in_flight: u32,
    unread_refusals: u32,
    /// Tunnels, and requests that may become one.
    tunnels: u32,
    /// What is held of the client's requests.
    held: Arc<Held>,
}

/// A request that was counted, and as what it counts.
pub(super) struct Counted {
    network: u128,
    /// How many requests its client had in flight, with this one.
    of_client: u32,
    counts_as: Kind,
    /// Whether it is a tunnel or may become one.
    may_be_tunnel: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    InFlight,
    Refused,
    Tunnel,
}

/// Why a request is refused.
pub(super) struct Refusal {
    pub(super) problem: Box<Problem>,
    /// Whether the client reads its refusals, so that it gets this one with content.
    pub(super) has_content: bool,
}

impl InFlight {
    pub(super) fn new(all: IntGauge, shed: IntCounter, limits: &Limits) -> Self {
        Self {
            all,
            shed,
            max: limits.max_in_flight.into(),
            max_per_client: limits.max_in_flight_per_client,
            tunnels: AtomicU32::new(0),
            max_tunnels: limits.max_tunnels,
            max_tunnels_per_client: limits.max_tunnels_per_client,
            held: Arc::default(),
            hasher: RandomState::new(),
            clients: Default::default(),
        }
    }

    /// Counts a request until it is passed to [`Self::leave`].
    pub(super) fn enter(&self, client: &Client) -> Counted {
        self.all.inc();
        let network = client.network();
        let mut clients = self.shard(network);
        let counts = clients.entry(network).or_default();
        counts.in_flight += 1;
        Counted { network, of_client: counts.in_flight, counts_as: Kind::InFlight, may_be_tunnel: false }
    }

    /// Refuses a request if its client, or all clients together, have too many in flight. It then no longer counts as
    /// in flight, however long its client takes to read the refusal.
    pub(super) fn check(&self, counted: &mut Counted) -> Result<(), Refusal> {
        let problem = if counted.of_client > self.max_per_client {
            too_many("too many requests from this address are in flight; wait for some of them to end")
        } else if self.all.get() > self.max {
            Problem::unavailable("too many requests are in flight; try again in a moment")
        } else {
            return Ok(());
        };
        self.shed.inc();
        self.all.dec();
        counted.counts_as = Kind::Refused;
        let mut clients = self.shard(counted.network);
        let counts = clients.entry(counted.network).or_default();
        counts.in_flight -= 1;
        counts.unread_refusals += 1;
        Err(Refusal { problem: Box::new(problem), has_content: counts.unread_refusals <= MAX_UNREAD_REFUSALS })
    }

    /// Refuses a request that may become a tunnel if its client, or all clients together, have too many of them. They
    /// may last for hours, and must leave connections for requests. Otherwise the request counts as a tunnel, too,
    /// until it leaves.
    pub(super) fn check_tunnel(&self, counted: &mut Counted) -> Result<(), Problem> {
        let mut clients = self.shard(counted.network);
        let counts = clients.entry(counted.network).or_default();
        if counts.tunnels >= self.max_tunnels_per_client {
            let detail = "too many WebSocket connections from this address are open; close some of them";
            return Err(too_many(detail));
        }
        if self.tunnels.fetch_add(1, Ordering::Relaxed) >= self.max_tunnels {
            self.tunnels.fetch_sub(1, Ordering::Relaxed);
            return Err(Problem::unavailable("too many WebSocket connections are open; try again in a moment"));
        }
        counts.tunnels += 1;
        counted.may_be_tunnel = true;
        Ok(())
    }

    /// Counts what is held of a request whose body has this length.
    pub(super) fn unread(&self, counted: &Counted, length: Option<u64>) -> Unread {
        let mut clients = self.shard(counted.network);
        let counts = clients.entry(counted.network).or_default();
        Unread::new(counts.held.clone(), self.held.clone(), length)
    }

    /// Counts a request no longer as in flight, since it has become a tunnel.
    pub(super) fn become_tunnel(&self, counted: &mut Counted) {
        self.all.dec();
        counted.counts_as = Kind::Tunnel;
        self.shard(counted.network).entry(counted.network).or_default().in_flight -= 1;
    }

    pub(super) fn leave(&self, counted: &Counted) {
        if counted.counts_as == Kind::InFlight {
            self.all.dec();
        }
        if counted.may_be_tunnel {
            self.tunnels.fetch_sub(1, Ordering::Relaxed);
        }
        let mut clients = self.shard(counted.network);
        if let Some(counts) = clients.get_mut(&counted.network) {
            match counted.counts_as {
                Kind::InFlight => counts.in_flight -= 1,
                Kind::Refused => counts.unread_refusals -= 1,
                Kind::Tunnel => {}
            }
            counts.tunnels -= u32::from(counted.may_be_tunnel);
            if counts.in_flight == 0 && counts.unread_refusals == 0 && counts.tunnels == 0 {
                clients.remove(&counted.network);
            }
        }
    }

    fn shard(&self, network: u128) -> MutexGuard<'_, Shard> {
        let shard = usize::try_from(self.hasher.hash_one(network) >> 32).unwrap_or_default() % SHARDS;
        self.clients[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn too_many(detail: &'static str) -> Problem {
    Problem::with_kind(StatusCode::TOO_MANY_REQUESTS, "rate-limited", detail)
}

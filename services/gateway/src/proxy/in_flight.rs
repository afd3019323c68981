//! Counts the requests in flight: all of them, and those of each client.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::{Mutex, MutexGuard, PoisonError},
};

use http::StatusCode;
use prometheus::{IntCounter, IntGauge};
use runtime::Problem;

use super::state::Limits;
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
    max_tunnels_per_client: u32,
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
    tunnels: u32,
}

/// A request that was counted, and as what it counts.
pub(super) struct Counted {
    network: u128,
    /// How many requests its client had in flight, with this one.
    of_client: u32,
    is_in_flight: bool,
    is_refused: bool,
    is_tunnel: bool,
}

/// Why a request is refused.
pub(super) struct Refusal {
    pub(super) problem: Problem,
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
            max_tunnels_per_client: limits.max_tunnels_per_client,
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
        Counted { network, of_client: counts.in_flight, is_in_flight: true, is_refused: false, is_tunnel: false }
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
        self.leave_in_flight(counted);
        counted.is_refused = true;
        let mut clients = self.shard(counted.network);
        let counts = clients.entry(counted.network).or_default();
        counts.unread_refusals += 1;
        Err(Refusal { problem, has_content: counts.unread_refusals <= MAX_UNREAD_REFUSALS })
    }

    /// Counts a request as a tunnel too, and refuses it if its client has too many.
    pub(super) fn enter_tunnel(&self, counted: &mut Counted) -> Result<(), Problem> {
        let mut clients = self.shard(counted.network);
        let counts = clients.entry(counted.network).or_default();
        if counts.tunnels >= self.max_tunnels_per_client {
            self.shed.inc();
            return Err(too_many("too many WebSocket connections from this address are open; close some of them"));
        }
        counts.tunnels += 1;
        counted.is_tunnel = true;
        Ok(())
    }

    /// Counts a request no longer as one in flight.
    pub(super) fn leave_in_flight(&self, counted: &mut Counted) {
        if std::mem::take(&mut counted.is_in_flight) {
            self.all.dec();
            self.shard(counted.network).entry(counted.network).or_default().in_flight -= 1;
        }
    }

    pub(super) fn leave(&self, counted: &Counted) {
        if counted.is_in_flight {
            self.all.dec();
        }
        let mut clients = self.shard(counted.network);
        if let Some(counts) = clients.get_mut(&counted.network) {
            counts.in_flight -= u32::from(counted.is_in_flight);
            counts.unread_refusals -= u32::from(counted.is_refused);
            counts.tunnels -= u32::from(counted.is_tunnel);
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

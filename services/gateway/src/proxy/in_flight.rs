//! Counts the requests in flight: all of them, and those of each client.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::{Mutex, MutexGuard, PoisonError},
};

use http::StatusCode;
use prometheus::{IntCounter, IntGauge};
use runtime::Problem;

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
}

/// A request that was counted.
pub(super) struct Counted {
    network: u128,
    /// How many requests its client had in flight, with this one.
    of_client: u32,
    is_refused: bool,
}

/// Why a request is refused.
pub(super) struct Refusal {
    pub(super) problem: Problem,
    /// Whether the client reads its refusals, so that it gets this one with content.
    pub(super) has_content: bool,
}

impl InFlight {
    pub(super) fn new(all: IntGauge, shed: IntCounter, max: u32, max_per_client: u32) -> Self {
        let (hasher, clients) = (RandomState::new(), Default::default());
        Self { all, shed, max: max.into(), max_per_client, hasher, clients }
    }

    /// Counts a request until it is passed to [`Self::leave`].
    pub(super) fn enter(&self, client: &Client) -> Counted {
        self.all.inc();
        let network = client.network();
        let mut clients = self.shard(network);
        let counts = clients.entry(network).or_default();
        counts.in_flight += 1;
        Counted { network, of_client: counts.in_flight, is_refused: false }
    }

    /// Refuses a request if its client, or all clients together, have too many in flight. It then no longer counts as
    /// in flight, however long its client takes to read the refusal.
    pub(super) fn check(&self, counted: &mut Counted) -> Result<(), Refusal> {
        let problem = if counted.of_client > self.max_per_client {
            let detail = "too many requests from this address are in flight; wait for some of them to end";
            Problem::with_kind(StatusCode::TOO_MANY_REQUESTS, "rate-limited", detail)
        } else if self.all.get() > self.max {
            Problem::unavailable("too many requests are in flight; try again in a moment")
        } else {
            return Ok(());
        };
        self.shed.inc();
        self.all.dec();
        counted.is_refused = true;
        let mut clients = self.shard(counted.network);
        let counts = clients.entry(counted.network).or_default();
        counts.in_flight -= 1;
        counts.unread_refusals += 1;
        Err(Refusal { problem, has_content: counts.unread_refusals <= MAX_UNREAD_REFUSALS })
    }

    pub(super) fn leave(&self, counted: &Counted) {
        if !counted.is_refused {
            self.all.dec();
        }
        let mut clients = self.shard(counted.network);
        if let Some(counts) = clients.get_mut(&counted.network) {
            *(if counted.is_refused { &mut counts.unread_refusals } else { &mut counts.in_flight }) -= 1;
            if counts.in_flight == 0 && counts.unread_refusals == 0 {
                clients.remove(&counted.network);
            }
        }
    }

    fn shard(&self, network: u128) -> MutexGuard<'_, Shard> {
        let shard = usize::try_from(self.hasher.hash_one(network) >> 32).unwrap_or_default() % SHARDS;
        self.clients[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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

/// Shards with a lock each, so that threads seldom wait for each other.
const SHARDS: usize = 16;

/// The requests in flight, and their limits.
pub(super) struct InFlight {
    all: IntGauge,
    shed: IntCounter,
    max: i64,
    max_per_client: u32,
    hasher: RandomState,
    clients: [Mutex<HashMap<u128, u32>>; SHARDS],
}

/// A request that was counted.
pub(super) struct Counted {
    network: u128,
    /// How many requests its client had in flight, with this one.
    of_client: u32,
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
        let count = clients.entry(network).or_default();
        *count += 1;
        Counted { network, of_client: *count }
    }

    /// Refuses a request if its client, or all clients together, have too many in flight.
    pub(super) fn check(&self, counted: &Counted) -> Result<(), Problem> {
        let problem = if counted.of_client > self.max_per_client {
            let detail = "too many requests from this address are in flight; wait for some of them to end";
            Problem::with_kind(StatusCode::TOO_MANY_REQUESTS, "rate-limited", detail)
        } else if self.all.get() > self.max {
            Problem::unavailable("too many requests are in flight; try again in a moment")
        } else {
            return Ok(());
        };
        self.shed.inc();
        Err(problem)
    }

    pub(super) fn leave(&self, counted: &Counted) {
        self.all.dec();
        let mut clients = self.shard(counted.network);
        if let Some(count) = clients.get_mut(&counted.network) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&counted.network);
            }
        }
    }

    fn shard(&self, network: u128) -> MutexGuard<'_, HashMap<u128, u32>> {
        let shard = usize::try_from(self.hasher.hash_one(network) >> 32).unwrap_or_default() % SHARDS;
        self.clients[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Settles expired holds of products that nobody asks for, and deletes what is no longer needed: settled expiries,
//! stored responses, and what has been kept for long enough.
//!
//! Requests do not depend on it: they settle what they touch. So it works in small steps on a connection of the pool,
//! never waits for a lock, and rests at least as long as it worked. Every replica sweeps.

use std::time::{Duration, Instant};

use chassis::{Database, database::DatabaseError, idempotency};
use chrono::{DateTime, Utc};
use tokio::time::sleep;

use super::{
    pruner::{self, Pruner},
    transaction,
};
use crate::{model::Retention, store};

/// The pause after a sweep that found little to do.
const PAUSE: Duration = Duration::from_secs(1);

/// How long expired holds are left to requests. The products in use have been settled by then.
const DELAY: Duration = Duration::from_secs(5);

/// The maximum number of rows that a step looks for or deletes.
const MAX_ROWS: i64 = 1000;

/// The maximum number of products that a transaction settles. Requests for them wait for it.
const MAX_PRODUCTS: usize = 100;

/// How long a round may take.
const ROUND: Duration = Duration::from_mins(1);

/// How often to start with the oldest rows again, to find those that were skipped. While a long transaction keeps the
/// index entries of deleted rows, that can take long.
const START_OVER: Duration = Duration::from_secs(10);

/// Sweeps until the process exits.
pub(super) async fn run(database: Database, retention: Retention) {
    let mut sweeper = Sweeper {
        database,
        next_expiry: DateTime::UNIX_EPOCH,
        start_over_at: Instant::now(),
        pruner: Pruner::new(retention),
    };
    loop {
        sweeper.round().await;
        sleep(PAUSE).await;
    }
}

struct Sweeper {
    database: Database,
    /// Earlier expiries have been deleted or skipped.
    next_expiry: DateTime<Utc>,
    start_over_at: Instant,
    pruner: Pruner,
}

impl Sweeper {
    /// Sweeps until little is left, at most for [`ROUND`]. Each step starts where the previous one ended, so that it
    /// does not pass the index entries of deleted rows again.
    async fn round(&mut self) {
        let started = Instant::now();
        let mut starts_over = started >= self.start_over_at;
        if starts_over {
            self.start_over_at = started + START_OVER;
        }
        while started.elapsed() < ROUND {
            let step = Instant::now();
            // Failures are not logged here: requests and the readiness check report an unavailable database.
            let is_swept = self.sweep(starts_over).await.unwrap_or(true);
            sleep(step.elapsed()).await;
            let step = Instant::now();
            let is_pruned = self.pruner.step(&self.database, starts_over).await;
            if is_swept && is_pruned {
                return;
            }
            starts_over = false;
            sleep(pruner::REST * step.elapsed()).await;
        }
    }

    /// Settles and deletes a limited number of expiries, and deletes stored responses. Returns whether little is left.
    async fn sweep(&mut self, starts_over: bool) -> Result<bool, DatabaseError> {
        let database = &self.database;
        let from = if starts_over { DateTime::UNIX_EPOCH } else { self.next_expiry };
        let find = async |connection: &mut _| store::unsettled_products(connection, from, DELAY, MAX_ROWS).await;
        let unsettled = database.run(find).await?;
        for products in unsettled.chunks(MAX_PRODUCTS) {
            let step = Instant::now();
            database.run(async |connection| transaction::settle(connection, products).await).await?;
            sleep(step.elapsed()).await;
        }
        let prune = async |connection: &mut _| store::prune_expiries(connection, from, DELAY, MAX_ROWS).await;
        let (expiries, last) = database.run(prune).await?;
        self.next_expiry = last.unwrap_or(self.next_expiry);
        let responses = database.run(async |connection| idempotency::prune(connection, MAX_ROWS).await).await?;
        Ok(expiries < MAX_ROWS && responses < MAX_ROWS.unsigned_abs())
    }
}

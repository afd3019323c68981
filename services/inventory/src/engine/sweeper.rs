//! Settles expired holds of products that nobody asks for, and deletes what is no longer needed: settled expiries, old
//! reservations and stored responses.
//!
//! Requests do not depend on it: they settle what they touch. So it works in small steps on a connection of the pool,
//! never waits for a lock, and rests as long as it worked. Every replica sweeps.

use std::time::{Duration, Instant};

use chassis::{Database, database::DatabaseError, idempotency};
use chrono::{DateTime, Utc};
use tokio::time::sleep;

use super::transaction;
use crate::store;

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

/// Sweeps until the process exits.
pub(super) async fn run(database: Database) {
    loop {
        round(&database).await;
        sleep(PAUSE).await;
    }
}

/// Sweeps until little is left, at most for [`ROUND`]. Each sweep starts where the previous one ended, so that it does
/// not pass the index entries of deleted rows again. The next round finds what was locked.
async fn round(database: &Database) {
    let started = Instant::now();
    let mut from = DateTime::UNIX_EPOCH;
    while started.elapsed() < ROUND {
        let step = Instant::now();
        // Failures are not logged here: requests and the readiness check report an unavailable database.
        match sweep(database, from).await {
            Ok((next, false)) => from = next,
            Ok((_, true)) | Err(_) => return,
        }
        sleep(step.elapsed()).await;
    }
}

/// Settles and deletes a limited number of expiries, and deletes stored responses and reservations. Returns until when
/// expiries were deleted, and whether little is left.
async fn sweep(database: &Database, from: DateTime<Utc>) -> Result<(DateTime<Utc>, bool), DatabaseError> {
    let find = async |connection: &mut _| store::unsettled_products(connection, from, DELAY, MAX_ROWS).await;
    let unsettled = database.run(find).await?;
    for products in unsettled.chunks(MAX_PRODUCTS) {
        let step = Instant::now();
        database.run(async |connection| transaction::settle(connection, products).await).await?;
        sleep(step.elapsed()).await;
    }
    let prune = async |connection: &mut _| store::prune_expiries(connection, from, DELAY, MAX_ROWS).await;
    let (expiries, last) = database.run(prune).await?;
    let responses = database.run(async |connection| idempotency::prune(connection, MAX_ROWS).await).await?;
    let reservations = database.run(async |connection| store::prune_reservations(connection, MAX_ROWS).await).await?;
    let is_done = expiries < MAX_ROWS && responses.max(reservations) < MAX_ROWS.unsigned_abs();
    Ok((last.unwrap_or(from), is_done))
}

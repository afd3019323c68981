//! Settles overdue holds of products that nobody asks for, and deletes expiries that no longer count.

use std::time::{Duration, Instant};

use chassis::{
    Database, LogLimit, chain,
    database::{DatabaseError, until_start_over},
};
use chrono::{DateTime, Utc};
use tokio::time::sleep;

use super::transaction;
use crate::{
    model::ProductId,
    store::{self, OverdueExpiry},
};

/// How long expired holds are left to requests. The products in use have been settled by then.
const DELAY: Duration = Duration::from_secs(5);

/// The maximum number of expiries that a step reads.
const MAX_ROWS: usize = 1000;

/// The maximum number of products that a transaction settles. Requests for them wait for it.
const MAX_PRODUCTS: usize = 100;

/// The shortest time between two log lines about products that cannot be settled. They are tried again every second.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// Passes the overdue expiries of all products, in order of time, in steps of limited size. It does not depend on the
/// success of a step: what could not be settled is left behind, so that it holds up nothing else. Now and then it starts
/// over, to find that.
pub(super) struct Settler {
    /// The last expiry that was read. Starting there does not pass the index entries of deleted rows again, which stay
    /// while a long transaction is open.
    last: (DateTime<Utc>, String),
    start_over_at: Instant,
}

impl Settler {
    pub(super) fn new() -> Self {
        Self { last: (DateTime::UNIX_EPOCH, String::new()), start_over_at: Instant::now() }
    }

    /// Settles and deletes the next overdue expiries. Returns whether there were few.
    pub(super) async fn step(&mut self, database: &Database) -> Result<bool, DatabaseError> {
        let started = Instant::now();
        let starts_over = started >= self.start_over_at;
        let after = if starts_over { (DateTime::UNIX_EPOCH, "") } else { (self.last.0, self.last.1.as_str()) };
        let limit = i64::try_from(MAX_ROWS).unwrap_or(i64::MAX);
        let read = async |connection: &mut _| store::overdue_expiries(connection, after, DELAY, limit).await;
        let overdue = database.run(read).await;
        if starts_over {
            self.start_over_at = Instant::now() + until_start_over(started.elapsed());
        }
        let overdue = overdue?;
        let Some(last) = overdue.last() else { return Ok(true) };
        self.last = (last.expires_at, last.product_id.clone());
        for products in unsettled(&overdue).chunks(MAX_PRODUCTS) {
            if !settle(database, products).await? {
                for product in products.chunks(1) {
                    settle(database, product).await?;
                }
            }
        }
        database.run(async |connection| store::delete_expiries(connection, &overdue).await).await?;
        Ok(overdue.len() < MAX_ROWS)
    }
}

/// The products that have something to settle, each once.
fn unsettled(overdue: &[OverdueExpiry]) -> Vec<ProductId> {
    let unsettled = overdue.iter().filter(|expiry| expiry.is_unsettled);
    let mut products: Vec<ProductId> =
        unsettled.filter_map(|expiry| expiry.product_id.clone().try_into().ok()).collect();
    products.sort_unstable();
    products.dedup();
    products
}

/// Settles products in one transaction, and rests as long as that took. Returns false if it failed because of what is
/// stored for one of them; one alone is logged.
async fn settle(database: &Database, products: &[ProductId]) -> Result<bool, DatabaseError> {
    static LIMIT: LogLimit = LogLimit::new(LOG_INTERVAL);
    let started = Instant::now();
    let settled = database.run(async |connection| transaction::settle(connection, products).await);
    let settled = settled.await;
    sleep(started.elapsed()).await;
    match settled {
        Ok(()) => Ok(true),
        Err(DatabaseError::Refused(error) | DatabaseError::Panicked(error)) => {
            if let [product] = products
                && let Some(omitted) = LIMIT.due()
            {
                let (product_id, cause) = (product.as_str(), chain(&error));
                tracing::error!(product_id, cause, omitted, "expired holds cannot be settled");
            }
            Ok(false)
        }
        Err(failure) => Err(failure),
    }
}

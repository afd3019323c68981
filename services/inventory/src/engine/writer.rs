//! Group commit: one transaction for all the changes that wait.
//!
//! The rows are locked in order of their ids, the changes decided in memory in order of arrival, the outcome written
//! with one statement and committed once. See "Inventory" in `docs/ARCHITECTURE.md`.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use chassis::{
    Database,
    batch::Handler,
    database::{Failure, HeldConnection, limited, sql_state},
};
use sqlx::{Acquire, PgConnection};

use super::decide::{Decision, decide};
use crate::{
    error::Error,
    model::{Change, Counters, ProductId, Stock},
    store,
};

/// Changes the stock of products.
pub(super) struct Writer {
    connection: HeldConnection,
}

impl Writer {
    pub(super) fn new(database: &Database) -> Self {
        Self { connection: database.hold() }
    }

    /// Writes the batch.
    async fn write(&mut self, batch: &[Change]) -> Result<Decision, Error> {
        loop {
            // Before COMMIT nothing is changed, whatever happens.
            let committing = AtomicBool::new(false);
            let begun = self.connection.begin().await;
            let mut lease = begun.map_err(|failure| Error::Database(Arc::new(failure)))?;
            let result = limited(write(lease.connection(), batch, &committing)).await;
            if !self.connection.end(lease, &result) {
                let unknown = committing.load(Ordering::Relaxed);
                return result.map_err(|failure| match failure {
                    Failure::Lost(_) if unknown => Error::OutcomeUnknown(Arc::new(failure)),
                    failure => Error::Database(Arc::new(failure)),
                });
            }
        }
    }
}

impl Handler for Writer {
    type Request = Change;
    type Answer = Result<Stock, Error>;

    async fn handle(&mut self, batch: Vec<Change>) -> Vec<Self::Answer> {
        let error = match self.write(&batch).await {
            Ok(decision) => return answers(decision).collect(),
            Err(error) => error,
        };
        if batch.len() == 1 || !is_of_one_change(&error) {
            return batch.iter().map(|_| Err(error.clone())).collect();
        }
        // One change made the statement fail: each alone, only that one does.
        let mut all = Vec::with_capacity(batch.len());
        for change in batch.chunks(1) {
            match self.write(change).await {
                Ok(decision) => all.extend(answers(decision)),
                Err(error) => all.push(Err(error)),
            }
        }
        all
    }
}

/// A data exception or a violated constraint (SQLSTATE class 22 or 23): of one change, not of the batch.
fn is_of_one_change(error: &Error) -> bool {
    let Error::Database(failure) = error else { return false };
    let code = sql_state(failure.error()).unwrap_or_default();
    matches!(**failure, Failure::Refused(_)) && (code.starts_with("22") || code.starts_with("23"))
}

fn answers(decision: Decision) -> impl Iterator<Item = Result<Stock, Error>> {
    decision.answers.into_iter().map(|answer| answer.map_err(Error::from))
}

async fn write(
    connection: &mut PgConnection,
    batch: &[Change],
    committing: &AtomicBool,
) -> Result<Decision, sqlx::Error> {
    let mut ids: Vec<&str> = batch.iter().map(|change| change.product_id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    loop {
        let mut transaction = connection.begin().await?;
        let mut counters: HashMap<ProductId, Counters> =
            store::lock(&mut transaction, &ids).await?.into_iter().collect();
        let missing: BTreeSet<&str> =
            ids.iter().copied().filter(|id| !counters.keys().any(|known| known.as_str() == *id)).collect();
        let decision = decide(batch, &mut counters);
        if decision.entries.is_empty() {
            transaction.rollback().await?;
            return Ok(decision);
        }
        // New products that come to have a movement.
        let written: BTreeSet<&str> = decision.entries.iter().map(|entry| entry.product_id.as_str()).collect();
        let new: Vec<&str> = missing.intersection(&written).copied().collect();
        if new.is_empty() {
            store::record(&mut transaction, &decision.entries).await?;
            committing.store(true, Ordering::Relaxed);
            transaction.commit().await?;
            return Ok(decision);
        }
        // They are added outside of the transaction: adding may have to wait for another one that adds the same
        // product, and that wait must not hold locks. Until its first movement nobody sees the row.
        transaction.rollback().await?;
        store::add(connection, &new).await?;
    }
}

//! Group commit: one transaction for all the changes that wait.
//!
//! The rows are locked in order of their ids, the changes decided in memory in order of arrival, the outcome written
//! with one statement and committed once. See "Inventory" in `docs/ARCHITECTURE.md`.

use std::{collections::HashMap, sync::Arc};

use chassis::{
    Database,
    batch::Handler,
    database::{HeldConnection, lost_a_race, sql_state},
};
use sqlx::{Acquire, PgConnection};

use super::decide::{Decision, decide};
use crate::{
    error::Error,
    model::{Change, Counters, ProductId, Stock},
    store,
};

/// How often a batch is tried again after a deadlock or a serialization failure.
const RETRIES: usize = 3;

/// Changes the stock of products.
pub(super) struct Writer {
    connection: HeldConnection,
}

/// Why a batch was not written.
enum Failure {
    /// Before COMMIT: nothing was changed.
    Before(sqlx::Error),
    /// During COMMIT: nobody knows.
    Committing(sqlx::Error),
}

impl Failure {
    fn into_error(self) -> Error {
        match self {
            Self::Before(error) => Error::Database(Arc::new(error)),
            Self::Committing(error) => Error::OutcomeUnknown(Arc::new(error)),
        }
    }

    /// A data exception or a violated constraint (SQLSTATE class 22 or 23): of one change, not of the batch.
    fn is_of_one_change(&self) -> bool {
        matches!(self, Self::Before(error)
            if sql_state(error).is_some_and(|code| code.starts_with("22") || code.starts_with("23")))
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Before(error)
    }
}

impl Writer {
    pub(super) fn new(database: &Database) -> Self {
        Self { connection: database.hold() }
    }

    /// Writes the batch; again after a failure that is worth it.
    async fn write(&mut self, batch: &[Change]) -> Result<Decision, Failure> {
        let mut tries = 0;
        loop {
            let result = write(self.connection.get().await?, batch).await;
            let Err(failure) = &result else { return result };
            match failure {
                Failure::Before(error) if lost_a_race(error) && tries < RETRIES => tries += 1,
                Failure::Before(sqlx::Error::Database(_)) => return result,
                // The connection is in doubt.
                _ => {
                    self.connection.discard();
                    return result;
                }
            }
        }
    }
}

impl Handler for Writer {
    type Request = Change;
    type Answer = Result<Stock, Error>;

    async fn handle(&mut self, batch: Vec<Change>) -> Vec<Self::Answer> {
        let failure = match self.write(&batch).await {
            Ok(decision) => return answers(decision).collect(),
            Err(failure) => failure,
        };
        if batch.len() == 1 || !failure.is_of_one_change() {
            let error = failure.into_error();
            return batch.iter().map(|_| Err(error.clone())).collect();
        }
        // One change made the statement fail: each alone, only that one does.
        let mut all = Vec::with_capacity(batch.len());
        for change in batch.chunks(1) {
            match self.write(change).await {
                Ok(decision) => all.extend(answers(decision)),
                Err(failure) => all.push(Err(failure.into_error())),
            }
        }
        all
    }
}

fn answers(decision: Decision) -> impl Iterator<Item = Result<Stock, Error>> {
    decision.answers.into_iter().map(|answer| answer.map_err(Error::from))
}

async fn write(connection: &mut PgConnection, batch: &[Change]) -> Result<Decision, Failure> {
    let mut ids: Vec<&str> = batch.iter().map(|change| change.product_id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    loop {
        let mut transaction = connection.begin().await?;
        let locked = store::lock(&mut transaction, &ids).await?;
        if locked.len() < ids.len() {
            // Some are new. They are added outside of the transaction: adding may have to wait for another one that
            // adds the same product, and that wait must not hold locks. Until its first movement nobody sees the row.
            transaction.rollback().await?;
            store::add(connection, &ids).await?;
            continue;
        }
        let mut counters: HashMap<ProductId, Counters> = locked.into_iter().collect();
        let decision = decide(batch, &mut counters);
        if decision.entries.is_empty() {
            transaction.rollback().await?;
        } else {
            store::record(&mut transaction, &decision.entries).await?;
            transaction.commit().await.map_err(Failure::Committing)?;
        }
        return Ok(decision);
    }
}

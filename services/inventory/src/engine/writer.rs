//! Group commit: one transaction for all the changes that wait.
//!
//! See "Inventory" in `docs/ARCHITECTURE.md`.

use std::{sync::Arc, time::Duration};

use chassis::{
    Database,
    batch::{Arrivals, OpenHandler},
    database::{DedicatedConnection, Failure, sql_state},
};
use futures_util::future::BoxFuture;
use sqlx::PgConnection;
use tokio::time::{self, Instant};

use super::{
    request::{Answer, Decided, Request},
    transaction::{self, Committing, Marker, Step},
};
use crate::{error::Error, store};

/// The most requests in one batch.
pub(super) const LARGEST_BATCH: usize = 512;

/// The most that the requests of one transaction weigh, so that it ends well before its statements' time is up.
pub(super) const LARGEST_WEIGHT: usize = 2000;

/// How long to find out whether a transaction was committed: longer than Postgres lets one be idle whose client is gone.
const FINDING_OUT: Duration = Duration::from_secs(4);

/// How soon to ask again where the database does not answer.
const PAUSE: Duration = Duration::from_millis(20);

/// How long after it began a batch that certainly was not committed is tried again: its requests must be answered in time.
pub(super) const RETRYING: Duration = Duration::from_secs(4);

/// Changes the stock of products.
pub(super) struct Writer {
    pub(super) connection: DedicatedConnection,
}

impl OpenHandler for Writer {
    type Request = Request;
    type Reply = Answer;

    async fn handle(&mut self, batch: Vec<Request>, arrivals: &mut Arrivals<'_, Self>) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(batch.len());
        let mut parts = split(batch);
        let last = parts.pop();
        for part in parts {
            answers.extend(self.answer(part, None).await);
        }
        if let Some(last) = last {
            answers.extend(self.answer(last, Some(arrivals)).await);
        }
        answers
    }
}

impl Writer {
    pub(super) fn new(database: &Database) -> Self {
        Self { connection: database.dedicate() }
    }

    /// Answers a batch, and what joins it.
    async fn answer(&mut self, mut batch: Vec<Request>, arrivals: Option<&mut Arrivals<'_, Self>>) -> Vec<Answer> {
        if let [request] = &mut *batch
            && let Some(answer) = self.hold(request).await
        {
            return vec![answer];
        }
        let error = match self.write(&mut batch, arrivals).await {
            Ok(decided) => return answers(decided).collect(),
            Err(error) => error,
        };
        if batch.len() == 1 || !is_of_one_change(&error) {
            return batch.iter().map(|_| Err(error.clone())).collect();
        }
        // One change made the statement fail: each alone, only that one does.
        let mut all = Vec::with_capacity(batch.len());
        for request in batch {
            match self.write(&mut vec![request], None).await {
                Ok(decided) => all.extend(answers(decided)),
                Err(error) => all.push(Err(error)),
            }
        }
        all
    }

    /// Writes a batch, and what joins it.
    async fn write(
        &mut self,
        batch: &mut Vec<Request>,
        mut arrivals: Option<&mut Arrivals<'_, Self>>,
    ) -> Result<Vec<Decided>, Error> {
        let begun = Instant::now();
        loop {
            let mut attempt = (&mut *batch, arrivals.as_deref_mut(), None);
            let result = self
                .connection
                .run(&mut attempt, |connection, (batch, arrivals, committing)| {
                    *committing = None;
                    Box::pin(transaction::run(connection, batch, arrivals.as_deref_mut(), committing))
                })
                .await;
            let (_, _, committing) = attempt;
            match (result, committing) {
                (Ok(Step::Answered(answers)), _) | (Ok(Step::Committed), Some(Committing { answers, .. })) => {
                    return Ok(answers);
                }
                (Ok(Step::Again | Step::Committed), _) => {}
                (Err(failure), Some(committing)) if failure.is_lost() => {
                    let Committing { answers, marker } = committing;
                    let failure = Arc::new(failure);
                    let was_committed = match &marker {
                        Some(marker) => self.find_out(marker).await,
                        None => Some(false),
                    };
                    match was_committed {
                        Some(true) => return Ok(answers),
                        Some(false) if begun.elapsed() < RETRYING => {}
                        Some(false) => return Err(Error::Database(failure)),
                        None => return Err(Error::OutcomeUnknown(failure)),
                    }
                }
                (Err(failure), _) => return Err(Error::Database(Arc::new(failure))),
            }
        }
    }

    /// Finds out whether a transaction was committed; `None` where that cannot be found out in time.
    async fn find_out(&mut self, marker: &Marker) -> Option<bool> {
        let marker = Arc::new(marker.clone());
        self.ask(move |connection| {
            let marker = marker.clone();
            Box::pin(async move { store::was_recorded(connection, &marker).await })
        })
        .await
    }

    /// Asks on a new connection, again and again, for what became of one that was lost.
    pub(super) async fn ask<T>(
        &mut self,
        mut question: impl Fn(&mut PgConnection) -> BoxFuture<'_, Result<T, sqlx::Error>>,
    ) -> Option<T> {
        let asking = async {
            loop {
                if let Ok(found) = self.connection.run(&mut question, |connection, question| question(connection)).await
                {
                    return found;
                }
                time::sleep(PAUSE).await;
            }
        };
        time::timeout(FINDING_OUT, asking).await.ok()
    }
}

/// Splits a batch into parts of a bearable size, in order.
fn split(batch: Vec<Request>) -> Vec<Vec<Request>> {
    let mut parts: Vec<Vec<Request>> = Vec::new();
    let mut weight = LARGEST_WEIGHT;
    for request in batch {
        let own = request.weight();
        weight += own;
        match parts.last_mut() {
            Some(part) if weight <= LARGEST_WEIGHT => part.push(request),
            _ => {
                parts.push(vec![request]);
                weight = own;
            }
        }
    }
    parts
}

/// A data exception or a violated constraint (SQLSTATE class 22 or 23): of one change, not of the batch.
fn is_of_one_change(error: &Error) -> bool {
    let Error::Database(failure) = error else { return false };
    let code = sql_state(failure.error()).unwrap_or_default();
    matches!(**failure, Failure::Refused(_)) && (code.starts_with("22") || code.starts_with("23"))
}

fn answers(decided: Vec<Decided>) -> impl Iterator<Item = Answer> {
    decided.into_iter().map(|answer| answer.map_err(Error::from))
}

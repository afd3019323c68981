//! Group commit: one transaction for all waiting changes. If its connection is lost, another one shows whether it took
//! effect.

use std::{sync::Arc, time::Duration};

use chassis::{
    Database,
    batch::{Arrivals, BatchError, Batcher, OpenHandler},
    database::{DatabaseError, DedicatedConnection, sql_state},
};
use futures_util::future::BoxFuture;
use sqlx::PgConnection;
use tokio::time::{self, Instant};

use super::{
    request::{Replied, Reply, Request, split},
    transaction::{self, Attempt, Commit, Progress},
};
use crate::{
    error::Error,
    model::{CommitMarker, NewReservation, Reservation, ReservationId, ReservationState},
    store,
};

/// For how long after its start a change without effect is retried. Its requests must be answered in time.
const RETRY_PERIOD: Duration = Duration::from_secs(4);

/// How long to look for the outcome of a change whose connection was lost. Postgres ends the transaction of a lost
/// client sooner.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(4);

/// The pause between two attempts to find the outcome while the database is unavailable.
const OUTCOME_PAUSE: Duration = Duration::from_millis(20);

/// Changes the stock of products.
pub(super) struct Writer {
    connection: DedicatedConnection,
}

/// Sends a request to the writer and waits for its reply.
pub(super) async fn send<T>(changes: &Batcher<Writer>, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Error> {
    let (reply, result) = Reply::channel();
    if let Err(BatchError::Overloaded) = changes.submit(request(reply)).await {
        return Err(BatchError::Overloaded.into());
    }
    // The channel is closed if the writer panicked. How far it got is not known.
    result.await.unwrap_or(Err(Error::Lost))
}

impl OpenHandler for Writer {
    type Request = Request;
    type Reply = Replied;

    async fn handle(&mut self, batch: Vec<Request>, arrivals: &mut Arrivals<'_, Self>) -> Vec<Replied> {
        let mut replied = Vec::new();
        let mut parts = split(batch);
        let last = parts.pop();
        for part in parts {
            replied.extend(self.process(part, None).await);
        }
        if let Some(last) = last {
            replied.extend(self.process(last, Some(arrivals)).await);
        }
        replied
    }
}

impl Writer {
    pub(super) fn new(database: &Database) -> Self {
        Self { connection: database.dedicate() }
    }

    /// Processes a batch and the requests that join it, and sends their replies.
    async fn process(
        &mut self,
        mut batch: Vec<Request>,
        mut arrivals: Option<&mut Arrivals<'_, Self>>,
    ) -> Vec<Replied> {
        let mut replied = Vec::with_capacity(batch.len());
        while !batch.is_empty() {
            let mut rest = Vec::new();
            self.decide(&mut batch, arrivals.take(), &mut rest).await;
            replied.extend(batch.into_iter().map(Request::finish));
            batch = rest;
        }
        replied
    }

    /// Sets the result of each request of a batch, except for those that are moved to `rest`.
    async fn decide(
        &mut self,
        batch: &mut Vec<Request>,
        arrivals: Option<&mut Arrivals<'_, Self>>,
        rest: &mut Vec<Request>,
    ) {
        batch.retain(|request| !request.is_abandoned());
        if batch.is_empty() {
            return;
        }
        if let [Request::Reserve { id, new, claim: None, reply }] = batch.as_mut_slice()
            && let Some(result) = self.reserve_single(id, new).await
        {
            reply.set(result);
            return;
        }
        let Err(error) = self.write(batch, arrivals, rest).await else { return };
        if batch.len() == 1 || !concerns_one_change(&error) {
            fail(batch, &error);
            return;
        }
        // A single change made the statement fail. Written one by one, only that change fails.
        let mut alone = Vec::with_capacity(1);
        for request in std::mem::take(batch) {
            alone.push(request);
            if let Err(error) = self.write(&mut alone, None, rest).await {
                fail(&mut alone, &error);
            }
            batch.append(&mut alone);
        }
    }

    /// Writes a batch, and the requests that join it, in one transaction.
    async fn write(
        &mut self,
        batch: &mut Vec<Request>,
        mut arrivals: Option<&mut Arrivals<'_, Self>>,
        rest: &mut Vec<Request>,
    ) -> Result<(), Error> {
        let started = Instant::now();
        loop {
            let mut attempt = Attempt { batch, arrivals: arrivals.as_deref_mut(), rest, commit: Commit::NotSent };
            let result = self
                .connection
                .run(&mut attempt, |connection, attempt| Box::pin(transaction::run(connection, attempt)))
                .await;
            match (result, attempt.commit) {
                (Ok(Progress::Done), _) => return Ok(()),
                (Ok(Progress::Repeat), _) => {}
                (Err(failure), Commit::Sent(marker)) if failure.is_lost() => {
                    let failure = Arc::new(failure);
                    let was_committed = match marker {
                        Some(marker) => self.was_committed(marker).await,
                        None => Some(false),
                    };
                    match was_committed {
                        Some(true) => return Ok(()),
                        Some(false) if started.elapsed() < RETRY_PERIOD => {}
                        Some(false) => return Err(Error::Database(failure)),
                        None => return Err(Error::OutcomeUnknown(failure)),
                    }
                }
                (Err(failure), _) => return Err(Error::Database(Arc::new(failure))),
            }
        }
    }

    /// Reserves a single item in one statement, which is its own transaction, instead of in four round trips. Returns
    /// `None`, with nothing changed, if the request needs a transaction.
    ///
    /// The statement applies only if nothing but the product's own row decides. After waiting for the row lock,
    /// Postgres re-reads only that row: a line settled in the meantime would be read in its old state. The statement
    /// therefore matches neither products with overdue lines nor requests that must be refused.
    async fn reserve_single(
        &mut self,
        id: &mut ReservationId,
        new: &NewReservation,
    ) -> Option<Result<Reservation, Error>> {
        let [item] = new.items.as_slice() else { return None };
        let started = Instant::now();
        let expires_at = loop {
            let mut input = (*id, item, new.ttl);
            let held = self
                .connection
                .run(&mut input, |connection, (id, item, ttl)| Box::pin(store::hold(connection, *id, item, *ttl)))
                .await;
            match held {
                Ok(held) => break held?,
                Err(failure) if failure.is_lost() => {
                    let failure = Arc::new(failure);
                    let lost = *id;
                    match self.find_outcome(move |connection| Box::pin(store::void(connection, lost))).await {
                        Some(Some(expires_at)) => break expires_at,
                        // The lost statement can no longer take effect, so the request is retried under a new id.
                        Some(None) if started.elapsed() < RETRY_PERIOD => *id = ReservationId::generate(),
                        Some(None) => return Some(Err(Error::Database(failure))),
                        None => return Some(Err(Error::OutcomeUnknown(failure))),
                    }
                }
                Err(failure) => return Some(Err(Error::Database(Arc::new(failure)))),
            }
        };
        Some(Ok(Reservation { id: *id, state: ReservationState::Held, items: new.items.clone(), expires_at }))
    }

    /// Checks on another connection whether a transaction was committed. Returns `None` if that is still unknown when
    /// the time is up.
    async fn was_committed(&mut self, marker: CommitMarker) -> Option<bool> {
        let marker = Arc::new(marker);
        self.find_outcome(move |connection| {
            let marker = marker.clone();
            Box::pin(async move { store::was_committed(connection, &marker).await })
        })
        .await
    }

    /// Runs a query for the outcome of a lost change, on a new connection, until it succeeds. Returns `None` if it does
    /// not succeed in time.
    async fn find_outcome<T>(
        &mut self,
        mut query: impl Fn(&mut PgConnection) -> BoxFuture<'_, Result<T, sqlx::Error>>,
    ) -> Option<T> {
        let find = async {
            loop {
                if let Ok(found) = self.connection.run(&mut query, |connection, query| query(connection)).await {
                    return found;
                }
                time::sleep(OUTCOME_PAUSE).await;
            }
        };
        time::timeout(OUTCOME_TIMEOUT, find).await.ok()
    }
}

fn fail(requests: &mut [Request], error: &Error) {
    for request in requests {
        request.fail(error.clone());
    }
}

/// Whether the error is a data exception or a violated constraint (SQLSTATE class 22 or 23), which concerns one change
/// and not the batch.
fn concerns_one_change(error: &Error) -> bool {
    let Error::Database(failure) = error else { return false };
    let code = sql_state(failure.error()).unwrap_or_default();
    matches!(**failure, DatabaseError::Refused(_)) && (code.starts_with("22") || code.starts_with("23"))
}

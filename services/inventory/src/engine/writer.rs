//! Group commit: one transaction for all waiting changes.

use std::sync::Arc;

use chassis::{
    Database,
    batch::{Arrivals, BatchError, Batcher, OpenHandler},
    database::{DedicatedConnection, Failure, sql_state},
};
use tokio::time::Instant;

use super::{
    outcome::{self, RETRY_PERIOD},
    request::{Reply, Request, split},
    single_hold,
    transaction::{self, Commit, Progress},
};
use crate::{error::Error, model::CommitMarker, store};

/// Changes the stock of products.
pub(super) struct Writer {
    connection: DedicatedConnection,
}

/// Sends a request to the writer and waits for its reply.
pub(super) async fn send<T>(changes: &Batcher<Writer>, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Error> {
    let (reply, result) = Reply::channel();
    changes.ask(request(reply)).await?;
    result.await.map_err(|_| BatchError::Lost)?
}

impl OpenHandler for Writer {
    type Request = Request;
    /// The reply is sent on the request's own channel.
    type Reply = ();

    async fn handle(&mut self, batch: Vec<Request>, arrivals: &mut Arrivals<'_, Self>) -> Vec<()> {
        let mut count = 0;
        let mut parts = split(batch);
        let last = parts.pop();
        for part in parts {
            count += self.process(part, None).await;
        }
        if let Some(last) = last {
            count += self.process(last, Some(arrivals)).await;
        }
        vec![(); count]
    }
}

impl Writer {
    pub(super) fn new(database: &Database) -> Self {
        Self { connection: database.dedicate() }
    }

    /// Processes a batch and the requests that join it, and sends their replies. Returns the number of requests.
    async fn process(&mut self, mut batch: Vec<Request>, arrivals: Option<&mut Arrivals<'_, Self>>) -> usize {
        self.decide(&mut batch, arrivals).await;
        let count = batch.len();
        batch.into_iter().for_each(Request::finish);
        count
    }

    /// Sets the result of each request of a batch.
    async fn decide(&mut self, batch: &mut Vec<Request>, arrivals: Option<&mut Arrivals<'_, Self>>) {
        if let [Request::Reserve { id, new, claim: None, reply }] = batch.as_mut_slice()
            && let Some(result) = single_hold::reserve(&mut self.connection, id, new).await
        {
            reply.set(result);
            return;
        }
        let Err(error) = self.write(batch, arrivals).await else { return };
        if batch.len() == 1 || !concerns_one_change(&error) {
            fail(batch, &error);
            return;
        }
        // A single change made the statement fail. Written one by one, only that change fails.
        let mut alone = Vec::with_capacity(1);
        for request in std::mem::take(batch) {
            alone.push(request);
            if let Err(error) = self.write(&mut alone, None).await {
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
    ) -> Result<(), Error> {
        let started = Instant::now();
        loop {
            let mut attempt = (&mut *batch, arrivals.as_deref_mut(), Commit::NotSent);
            let result = self
                .connection
                .run(&mut attempt, |connection, (batch, arrivals, commit)| {
                    *commit = Commit::NotSent;
                    Box::pin(transaction::run(connection, batch, arrivals.as_deref_mut(), commit))
                })
                .await;
            let (_, _, commit) = attempt;
            match (result, commit) {
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

    /// Checks on another connection whether a transaction was committed. Returns `None` if that is still unknown when
    /// the time is up.
    async fn was_committed(&mut self, marker: CommitMarker) -> Option<bool> {
        let marker = Arc::new(marker);
        outcome::find(&mut self.connection, move |connection| {
            let marker = marker.clone();
            Box::pin(async move { store::was_committed(connection, &marker).await })
        })
        .await
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
    matches!(**failure, Failure::Refused(_)) && (code.starts_with("22") || code.starts_with("23"))
}

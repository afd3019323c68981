//! Runs transactions until their outcome is known. If the connection is lost during COMMIT, another one shows whether
//! it took effect.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use chassis::{
    batch::Arrivals,
    database::{DatabaseError, is_lock_timeout},
};
use futures_util::future::BoxFuture;
use sqlx::PgConnection;
use tokio::time::{self, Instant};

use super::{
    super::{
        locked::SkipLocked,
        request::Request,
        transaction::{self, Attempt, Commit, Progress},
    },
    RETRY_PERIOD, Writer,
};
use crate::{
    error::Error,
    model::{Actor, CommitMarker, NewReservation, Reservation, ReservationId, ReservationState},
    store,
};

/// How long to look for the outcome of a change whose connection was lost. Postgres ends the transaction of a lost
/// client sooner.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(4);

/// The pause between two attempts to find the outcome while the database is unavailable.
const OUTCOME_PAUSE: Duration = Duration::from_millis(20);

impl Writer {
    /// Writes a batch, and the requests that join it, in one transaction. Requests beyond the maximum weight are moved
    /// to `rest`, and those for locked products to `skip_locked`.
    ///
    /// # Errors
    /// Returns an error that all requests of the batch have in common. Only [`Error::OutcomeUnknown`] leaves open
    /// whether they took effect.
    pub(super) async fn write(
        &mut self,
        batch: &mut Vec<Request>,
        mut arrivals: Option<&mut Arrivals<'_, Self>>,
        rest: &mut Vec<Request>,
        skip_locked: &mut Option<SkipLocked>,
    ) -> Result<(), Error> {
        if skip_locked.is_none()
            && let [Request::Reserve { id, actor, new, claim: None, reply }] = batch.as_mut_slice()
        {
            match self.reserve_single(id, actor, new).await {
                Some(Err(Error::Database(failure))) if is_lock_timeout(failure.error()) => {
                    *skip_locked = Some(SkipLocked::new(failure));
                }
                Some(result) => {
                    reply.set(result);
                    return Ok(());
                }
                None => {}
            }
        }
        let started = Instant::now();
        let mut new = BTreeSet::new();
        loop {
            if let Some(skip_locked) = skip_locked {
                skip_locked.take_known(batch);
            }
            if batch.is_empty() {
                return Ok(());
            }
            let mut attempt = Attempt {
                batch,
                arrivals: arrivals.as_deref_mut(),
                rest,
                new: &mut new,
                skip_locked: skip_locked.as_mut(),
                commit: Commit::NotSent,
            };
            let result = self
                .connection
                .run(&mut attempt, |connection, attempt| Box::pin(transaction::run(connection, attempt)))
                .await;
            match (result, attempt.commit) {
                (Ok(Progress::Done), _) => return Ok(()),
                // Requests that join could make it repeat again and again.
                (Ok(Progress::Repeat), _) => arrivals = None,
                (Err(failure @ DatabaseError::Panicked(_)), Commit::Sent(_)) => {
                    return Err(Error::OutcomeUnknown(Arc::new(failure)));
                }
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
                (Err(failure), _) if is_lock_timeout(failure.error()) => {
                    let failure = Arc::new(failure);
                    let Some(skip_locked) = skip_locked else {
                        *skip_locked = Some(SkipLocked::new(failure));
                        continue;
                    };
                    if !skip_locked.stop_waiting() {
                        return Err(Error::Database(failure));
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
    /// Postgres re-reads only that row: an expiry changed in the meantime would be read in its old state. The statement
    /// therefore matches neither products with unsettled expiries nor requests that must be refused.
    async fn reserve_single(
        &mut self,
        id: &mut ReservationId,
        actor: &Actor,
        new: &NewReservation,
    ) -> Option<Result<Reservation, Error>> {
        let [item] = new.items.as_slice() else { return None };
        let started = Instant::now();
        let expires_at = loop {
            let mut input = (*id, &*actor.subject, item, new.ttl);
            let held = self
                .connection
                .run(&mut input, |connection, (id, subject, item, ttl)| {
                    Box::pin(store::hold(connection, *id, subject, item, *ttl))
                })
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
                Err(failure @ DatabaseError::Panicked(_)) => {
                    return Some(Err(Error::OutcomeUnknown(Arc::new(failure))));
                }
                Err(failure) => return Some(Err(Error::Database(Arc::new(failure)))),
            }
        };
        let (subject, items) = (actor.subject.clone(), new.items.clone());
        Some(Ok(Reservation { id: *id, subject, state: ReservationState::Held, items, expires_at }))
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

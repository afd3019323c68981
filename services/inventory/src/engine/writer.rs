//! Group commit: one transaction for all waiting changes. If its connection is lost, another one shows whether it took
//! effect.

use std::{collections::BTreeSet, mem, sync::Arc, time::Duration};

use chassis::{
    Database,
    batch::{Arrivals, BatchError, Batcher, OpenHandler},
    database::{DatabaseError, DedicatedConnection, is_lock_timeout, sql_state},
};
use futures_util::future::BoxFuture;
use sqlx::PgConnection;
use tokio::{
    select,
    time::{self, Instant},
};

use super::{
    locked::{LOCK_TIMEOUT, Locked, SkipLocked},
    request::{Replied, Reply, Request, split},
    transaction::{self, Attempt, Commit, Progress},
};
use crate::{
    error::Error,
    model::{CommitMarker, NewReservation, ProductId, Reservation, ReservationId, ReservationState},
    store,
};

/// For how long after its start a change without effect is retried. Its requests must be answered in time.
const RETRY_PERIOD: Duration = Duration::from_secs(4);

/// How long to look for the outcome of a change whose connection was lost. Postgres ends the transaction of a lost
/// client sooner.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(4);

/// The pause between two attempts to find the outcome while the database is unavailable.
const OUTCOME_PAUSE: Duration = Duration::from_millis(20);

/// The maximum number of requests that wait for locked products. More fail at once: they would leave too few of the
/// requests that the server admits to other products.
const MAX_LOCKED: usize = 1024;

/// Changes the stock of products.
pub(super) struct Writer {
    connection: DedicatedConnection,
    /// Requests that were set aside, in order of arrival.
    locked: Vec<Locked>,
    /// Until when they are not tried again.
    rests_until: Instant,
    /// The locked products that were waited for last.
    waited_for: BTreeSet<ProductId>,
}

/// Sends a request to the writer and waits for its reply.
pub(super) async fn send<T>(changes: &Batcher<Writer>, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Error> {
    let (reply, mut result) = Reply::channel();
    let result = select! {
        // The result is there once the request's own transaction has ended. The batch may have others, and takes
        // longer.
        biased;
        result = &mut result => result,
        submitted = changes.submit(request(reply)) => match submitted {
            Err(BatchError::Overloaded) => return Err(BatchError::Overloaded.into()),
            Ok(Replied) | Err(BatchError::Lost) => result.await,
        },
    };
    // The channel is closed if the writer panicked. How far it got is not known.
    result.unwrap_or(Err(Error::Lost))
}

impl OpenHandler for Writer {
    type Request = Request;
    type Reply = Replied;

    async fn handle(&mut self, batch: Vec<Request>, arrivals: &mut Arrivals<'_, Self>) -> Vec<Replied> {
        let mut replied = Vec::new();
        let mut parts = split(batch);
        let last = parts.pop();
        for part in parts {
            replied.extend(self.process(part, None, self.skip_locked()).await);
        }
        if let Some(last) = last {
            replied.extend(self.process(last, Some(arrivals), self.skip_locked()).await);
        }
        if Instant::now() >= self.rests_until {
            self.retry_locked().await;
        }
        replied
    }

    fn wake_at(&self) -> Option<Instant> {
        (!self.locked.is_empty()).then_some(self.rests_until)
    }
}

impl Writer {
    pub(super) fn new(database: &Database) -> Self {
        let connection = database.dedicate().with_lock_timeout(LOCK_TIMEOUT);
        Self { connection, locked: Vec::new(), rests_until: Instant::now(), waited_for: BTreeSet::new() }
    }

    /// Processes a batch and the requests that join it, and sends their replies. Those that are set aside get theirs
    /// later.
    async fn process(
        &mut self,
        mut batch: Vec<Request>,
        mut arrivals: Option<&mut Arrivals<'_, Self>>,
        mut skip_locked: Option<SkipLocked>,
    ) -> Vec<Replied> {
        let mut replied = Vec::with_capacity(batch.len());
        while !batch.is_empty() {
            let mut rest = Vec::new();
            self.decide(&mut batch, arrivals.take(), &mut rest, &mut skip_locked).await;
            replied.extend(batch.into_iter().map(Request::finish));
            if let Some(skip_locked) = &mut skip_locked {
                self.set_aside(mem::take(&mut skip_locked.locked));
            }
            batch = rest;
        }
        replied
    }

    /// While requests are set aside, no other transaction waits for locks, and no request overtakes those that wait for
    /// its product.
    fn skip_locked(&self) -> Option<SkipLocked> {
        let failure = self.locked.last()?.failure.clone();
        let unavailable = self.locked.iter().flat_map(|locked| &locked.products).cloned().collect();
        Some(SkipLocked { unavailable, ..SkipLocked::new(failure) })
    }

    /// Sets requests aside, unless they have waited for too long or are too many.
    fn set_aside(&mut self, requests: Vec<Locked>) {
        if self.locked.is_empty() {
            self.rests_until = Instant::now() + LOCK_TIMEOUT;
        }
        let mut waiting = self.locked.iter().filter(|locked| !locked.products.is_empty()).count();
        for mut locked in requests {
            if locked.request.age() >= RETRY_PERIOD || !locked.products.is_empty() && waiting >= MAX_LOCKED {
                locked.request.fail(Error::Database(locked.failure));
                locked.request.finish();
                continue;
            }
            waiting += usize::from(!locked.products.is_empty());
            self.locked.push(locked);
        }
    }

    /// Tries the requests again that were set aside. Sets of locked products take turns: one is waited for, the others
    /// are not. Then others have as much time as this took.
    async fn retry_locked(&mut self) {
        let started = Instant::now();
        let locked = mem::take(&mut self.locked);
        let Some(failure) = locked.last().map(|locked| locked.failure.clone()) else { return };
        let (mut known, unknown): (Vec<_>, Vec<_>) = locked.into_iter().partition(|locked| !locked.products.is_empty());
        let sets = || known.iter().map(|locked| &locked.products);
        let next = sets().filter(|set| **set > self.waited_for).min().or_else(|| sets().min());
        let mut wait_for = next.cloned().unwrap_or_default();
        self.waited_for.clone_from(&wait_for);
        known.sort_by_key(|locked| locked.products != wait_for);
        let requests = |locked: Vec<Locked>| split(locked.into_iter().map(|locked| locked.request).collect());
        for part in requests(known).into_iter().chain(requests(unknown)) {
            let mut skip_locked = self.skip_locked().unwrap_or_else(|| SkipLocked::new(failure.clone()));
            skip_locked.wait_for = mem::take(&mut wait_for);
            self.process(part, None, Some(skip_locked)).await;
        }
        self.rests_until = Instant::now() + started.elapsed();
    }

    /// Sets the result of each request of a batch, except for those that are moved to `rest` or set aside.
    async fn decide(
        &mut self,
        batch: &mut Vec<Request>,
        mut arrivals: Option<&mut Arrivals<'_, Self>>,
        rest: &mut Vec<Request>,
        skip_locked: &mut Option<SkipLocked>,
    ) {
        batch.retain(|request| !request.is_abandoned());
        if batch.is_empty() {
            return;
        }
        if skip_locked.is_none()
            && let [Request::Reserve { id, new, claim: None, reply }] = batch.as_mut_slice()
        {
            match self.reserve_single(id, new).await {
                Some(Err(Error::Database(failure))) if is_lock_timeout(failure.error()) => {
                    *skip_locked = Some(SkipLocked::new(failure));
                }
                Some(result) => {
                    reply.set(result);
                    return;
                }
                None => {}
            }
        }
        // If a single change makes a statement fail or wait, the batch is halved until only that change is left.
        let mut waits_since = None;
        let mut parts = vec![mem::take(batch)];
        while let Some(mut part) = parts.pop() {
            match self.write(&mut part, arrivals.take(), rest, skip_locked).await {
                Err(error) if part.len() > 1 && may_concern_one_change(&error, &mut waits_since) => {
                    let second = part.split_off(part.len() / 2);
                    parts.extend([second, part]);
                }
                Err(Error::Database(failure)) if is_lock_timeout(failure.error()) => {
                    let skip_locked = skip_locked.get_or_insert_with(|| SkipLocked::new(failure));
                    for request in part {
                        skip_locked.set_aside_unknown(request);
                    }
                }
                result => {
                    if let Err(error) = result {
                        fail(&mut part, &error);
                    }
                    batch.append(&mut part);
                }
            }
        }
    }

    /// Writes a batch, and the requests that join it, in one transaction.
    async fn write(
        &mut self,
        batch: &mut Vec<Request>,
        mut arrivals: Option<&mut Arrivals<'_, Self>>,
        rest: &mut Vec<Request>,
        skip_locked: &mut Option<SkipLocked>,
    ) -> Result<(), Error> {
        let started = Instant::now();
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
                skip_locked: skip_locked.as_mut(),
                commit: Commit::NotSent,
            };
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

/// Whether the error may concern one change and not the batch: a data exception or a violated constraint (SQLSTATE
/// class 22 or 23), or a lock that another transaction holds. If it holds many, the search for them ends with the time.
fn may_concern_one_change(error: &Error, waits_since: &mut Option<Instant>) -> bool {
    let Error::Database(failure) = error else { return false };
    if is_lock_timeout(failure.error()) {
        return waits_since.get_or_insert_with(Instant::now).elapsed() < LOCK_TIMEOUT;
    }
    let code = sql_state(failure.error()).unwrap_or_default();
    matches!(**failure, DatabaseError::Refused(_)) && (code.starts_with("22") || code.starts_with("23"))
}

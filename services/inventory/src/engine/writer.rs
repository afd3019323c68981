//! Group commit: one transaction for all waiting changes.

mod outcome;

use std::{collections::BTreeSet, mem, time::Duration};

use chassis::{
    Database,
    batch::{Arrivals, BatchError, Batcher, OpenHandler},
    database::{DatabaseError, DedicatedConnection, concerns_one_request, is_lock_timeout},
};
use tokio::{select, time::Instant};

use super::{
    locked::{LOCK_TIMEOUT, Locked, SkipLocked},
    request::{Replied, Reply, Request, split},
};
use crate::{error::Error, model::ProductId};

/// For how long after its start a change without effect is retried. Its requests must be answered in time.
const RETRY_PERIOD: Duration = Duration::from_secs(4);

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

    /// Processes a batch and the requests that join it, and sends each reply once its own transaction has ended.
    /// Requests that are set aside get theirs later.
    async fn process(
        &mut self,
        batch: Vec<Request>,
        mut arrivals: Option<&mut Arrivals<'_, Self>>,
        mut skip_locked: Option<SkipLocked>,
    ) -> Vec<Replied> {
        let mut replied = Vec::with_capacity(batch.len());
        let mut search_since = None;
        // The parts of the batch that are left, the first one last.
        let mut parts = vec![batch];
        while let Some(mut part) = parts.pop() {
            part.retain(|request| !request.is_abandoned());
            let mut rest = Vec::new();
            let result = self.write(&mut part, arrivals.take(), &mut rest, &mut skip_locked).await;
            if !rest.is_empty() {
                parts.push(rest);
            }
            match result {
                // If a single change makes a statement fail or wait, the part is halved until only that change is left.
                Err(error) if part.len() > 1 && may_concern_one_change(&error, &mut search_since) => {
                    let second = divide(&mut part);
                    parts.extend([second, part]);
                }
                Err(Error::Database(failure)) if is_lock_timeout(failure.error()) => {
                    let skip_locked = skip_locked.get_or_insert_with(|| SkipLocked::new(failure));
                    let is_cause = part.len() == 1;
                    for request in part {
                        skip_locked.set_aside_unknown(request, is_cause);
                    }
                }
                result => {
                    for mut request in part {
                        if let Err(error) = &result {
                            request.fail(error.clone());
                        }
                        replied.push(request.finish());
                    }
                }
            }
        }
        if let Some(skip_locked) = skip_locked {
            self.set_aside(skip_locked.locked);
        }
        replied
    }

    /// While requests are set aside, no other transaction waits for locks, and no request overtakes those that wait for
    /// its product.
    fn skip_locked(&self) -> Option<SkipLocked> {
        let failure = self.locked.last()?.failure.clone();
        let unavailable = self.locked.iter().flat_map(|locked| locked.request.waits_for()).cloned().collect();
        Some(SkipLocked { unavailable, ..SkipLocked::new(failure) })
    }

    /// Sets requests aside, unless they have waited for too long or are too many.
    fn set_aside(&mut self, requests: Vec<Locked>) {
        if self.locked.is_empty() {
            self.rests_until = Instant::now() + LOCK_TIMEOUT;
        }
        self.locked.retain(|locked| !locked.request.is_abandoned());
        let mut waiting = self.locked.iter().filter(|locked| locked.waits_for_products()).count();
        for mut locked in requests {
            if locked.request.age() >= RETRY_PERIOD || locked.waits_for_products() && waiting >= MAX_LOCKED {
                locked.request.fail(Error::Database(locked.failure));
                locked.request.finish();
                continue;
            }
            waiting += usize::from(locked.waits_for_products());
            self.locked.push(locked);
        }
    }

    /// Tries the requests again that were set aside. Sets of locked products take turns: one is waited for, the others
    /// are not. Then others have as much time as this took.
    async fn retry_locked(&mut self) {
        let started = Instant::now();
        let locked = mem::take(&mut self.locked);
        let Some(failure) = locked.last().map(|locked| locked.failure.clone()) else { return };
        let (mut known, unknown): (Vec<_>, Vec<_>) = locked.into_iter().partition(Locked::waits_for_products);
        // What the last search did not come to is not mixed with what it found, which would only be found again.
        let (found, not_searched): (Vec<_>, Vec<_>) = unknown.into_iter().partition(|locked| locked.is_cause);
        let sets = || known.iter().map(|locked| locked.request.waits_for());
        let next = sets().filter(|set| **set > self.waited_for).min().or_else(|| sets().min());
        let mut wait_for = next.cloned().unwrap_or_default();
        self.waited_for.clone_from(&wait_for);
        known.sort_by_key(|locked| *locked.request.waits_for() != wait_for);
        let requests = |locked: Vec<Locked>| split(locked.into_iter().map(|locked| locked.request).collect());
        for part in [known, not_searched, found].into_iter().flat_map(requests) {
            let mut skip_locked = self.skip_locked().unwrap_or_else(|| SkipLocked::new(failure.clone()));
            skip_locked.wait_for = mem::take(&mut wait_for);
            self.process(part, None, Some(skip_locked)).await;
        }
        self.rests_until = Instant::now() + started.elapsed();
    }
}

/// Takes the second half out of a part. If requests with and without keys are mixed, it takes those with a key instead:
/// many of them may wait for keys that somebody holds, while the others wait for nothing.
fn divide(part: &mut Vec<Request>) -> Vec<Request> {
    let with_keys: Vec<Request> = part.extract_if(.., |request| request.claim().is_some()).collect();
    if part.is_empty() {
        *part = with_keys;
    } else if !with_keys.is_empty() {
        return with_keys;
    }
    part.split_off(part.len() / 2)
}

/// Whether the error may concern one change and not the batch: a data exception or a violated constraint (SQLSTATE
/// class 22 or 23), a stored response that cannot be decoded, a panic, or a lock that another transaction holds. The search for many such changes ends with the
/// time.
fn may_concern_one_change(error: &Error, search_since: &mut Option<Instant>) -> bool {
    let Error::Database(failure) = error else { return false };
    let limit = match **failure {
        _ if is_lock_timeout(failure.error()) => LOCK_TIMEOUT,
        DatabaseError::Panicked(_) => RETRY_PERIOD,
        _ => return concerns_one_request(failure),
    };
    search_since.get_or_insert_with(Instant::now).elapsed() < limit
}

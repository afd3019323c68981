//! Deletes what has been kept for long enough: reservations, and the oldest movements of ledgers.
//!
//! It works in short transactions that lock nothing a request needs. Of all replicas, one at a time does. Nothing waits
//! for it, so it rests most of the time.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use chassis::{
    Database, LogLimit, chain,
    database::{DatabaseError, until_start_over},
};
use sqlx::{Acquire, PgConnection};
use uuid::Uuid;

use crate::{
    model::Retention,
    store::{self, PrunedLedger},
};

/// The maximum number of reservations that a step deletes, and of products that it looks at.
const MAX_ROWS: u16 = 1000;

/// The maximum number of movements of a ledger that are deleted at once. A step deletes less than twice as many, which
/// can be on as many pages of the disk.
const MAX_MOVEMENTS: i64 = 1000;

/// The maximum number of ledgers that a step prunes.
const MAX_LEDGERS: usize = 100;

/// Movements are kept this many times longer than the pause between two passes over all ledgers.
const PASSES: u32 = 1000;

/// How many times longer than a step the rest after it is.
pub(super) const REST: u32 = 6;

/// How long a replica waits that found another one pruning, or could not prune.
const BACK_OFF: Duration = Duration::from_secs(10);

/// The shortest time between two log lines about ledgers that cannot be pruned.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// Prunes step by step.
pub(super) struct Pruner {
    retention: Retention,
    /// Reservations with lower ids have been deleted or skipped.
    next_reservation: Uuid,
    pass: Pass,
    start_over_at: Instant,
    backs_off_until: Instant,
}

/// A pass over all ledgers, in order of their products.
struct Pass {
    /// When it starts.
    due: Instant,
    /// The last product that was looked at; empty before the first one.
    after: String,
    /// The ledgers with old movements among those that were looked at, each with the number of the first movement that
    /// has not been looked at.
    found: VecDeque<(String, i64)>,
    /// How many of them are pruned on their own, because one of them may be what made a step fail.
    alone: usize,
}

impl Pruner {
    pub(super) fn new(retention: Retention) -> Self {
        let now = Instant::now();
        let pass = Pass { due: now, after: String::new(), found: VecDeque::new(), alone: 0 };
        Self { retention, next_reservation: Uuid::nil(), pass, start_over_at: now, backs_off_until: now }
    }

    /// Deletes a limited number of rows. Returns whether that is enough for now.
    ///
    /// # Errors
    /// Returns the failure, after which the next steps do nothing for a while.
    pub(super) async fn step(&mut self, database: &Database) -> Result<bool, DatabaseError> {
        let now = Instant::now();
        if now < self.backs_off_until {
            return Ok(true);
        }
        let starts_over = now >= self.start_over_at;
        let reservations = self.prune_reservations(database, starts_over).await;
        if starts_over {
            self.start_over_at = Instant::now() + until_start_over(now.elapsed());
        }
        // The next step goes on where the last one ended if only starting over fails.
        let is_tried_again = starts_over && reservations.is_err();
        let ledgers = self.prune_ledgers(database).await;
        let is_refused = |result: &Result<_, _>| !matches!(result, Ok(Some(_)));
        if is_refused(&ledgers) || is_refused(&reservations) && !is_tried_again {
            self.backs_off_until = Instant::now() + BACK_OFF;
        }
        Ok(reservations?.unwrap_or(true) && ledgers?.unwrap_or(true))
    }

    /// Deletes reservations. Returns whether few are left; `None` if another replica is pruning.
    async fn prune_reservations(
        &mut self,
        database: &Database,
        starts_over: bool,
    ) -> Result<Option<bool>, DatabaseError> {
        let retention = self.retention.reservations;
        let from = if starts_over { Uuid::nil() } else { self.next_reservation };
        let prune = async |connection: &mut _| prune_reservations(connection, retention, from).await;
        let Some((count, last)) = database.run(prune).await? else { return Ok(None) };
        self.next_reservation = self.next_reservation.max(last.unwrap_or_default());
        Ok(Some(count < i64::from(MAX_ROWS)))
    }

    /// Prunes ledgers. Returns whether the pass has ended; `None` if another replica is pruning.
    async fn prune_ledgers(&mut self, database: &Database) -> Result<Option<bool>, DatabaseError> {
        let Some(retention) = self.retention.ledgers else { return Ok(Some(true)) };
        self.find_ledgers(database).await?;
        let count = if self.pass.alone > 0 { 1 } else { MAX_LEDGERS };
        // If the transaction fails, the next one repeats it.
        let mut ledgers = self.pass.found.clone();
        let prune = async |connection: &mut _| prune_ledgers(connection, retention, &mut ledgers, count).await;
        match database.run(prune).await {
            Ok(false) => return Ok(None),
            Ok(true) => {
                self.pass.alone = self.pass.alone.saturating_sub(1);
                self.pass.found = ledgers;
            }
            Err(failure @ DatabaseError::NoConnection(_)) => return Err(failure),
            Err(_) if count > 1 => self.pass.alone = MAX_LEDGERS,
            // It is left to the next pass.
            Err(failure) => {
                self.pass.alone -= 1;
                if let Some((product_id, _)) = self.pass.found.pop_front() {
                    report(&product_id, &failure);
                }
            }
        }
        Ok(Some(self.pass.after.is_empty() && self.pass.found.is_empty()))
    }

    /// Looks at the next ledgers of the pass, if those found before are pruned.
    async fn find_ledgers(&mut self, database: &Database) -> Result<(), DatabaseError> {
        let (Some(retention), pass) = (self.retention.ledgers, &mut self.pass) else { return Ok(()) };
        if !pass.found.is_empty() || Instant::now() < pass.due {
            return Ok(());
        }
        let find =
            async |connection: &mut _| store::old_ledgers(connection, &pass.after, retention, MAX_ROWS.into()).await;
        let ledgers = database.run(find).await?;
        match ledgers.last() {
            Some((last, _)) if ledgers.len() == usize::from(MAX_ROWS) => pass.after.clone_from(last),
            _ => {
                pass.after.clear();
                pass.due = Instant::now() + retention / PASSES;
            }
        }
        pass.found.extend(ledgers.into_iter().filter(|(_, is_old)| *is_old).map(|(product_id, _)| (product_id, 0)));
        Ok(())
    }
}

/// Logs that a ledger cannot be pruned.
fn report(product_id: &str, failure: &DatabaseError) {
    static LIMIT: LogLimit = LogLimit::new(LOG_INTERVAL);
    if let Some(omitted) = LIMIT.due() {
        tracing::error!(product_id, cause = chain(failure), omitted, "ledger cannot be pruned");
    }
}

/// Deletes reservations, starting with this id. Returns how many and the highest id; `None` if another replica is
/// pruning.
async fn prune_reservations(
    connection: &mut PgConnection,
    retention: Duration,
    from: Uuid,
) -> Result<Option<(i64, Option<Uuid>)>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let pruned = if store::lock_pruning(&mut transaction).await? {
        Some(store::prune_reservations(&mut transaction, from, retention, MAX_ROWS.into()).await?)
    } else {
        None
    };
    if pruned.is_some_and(|(count, _)| count > 0) {
        transaction.commit().await?;
    } else {
        transaction.rollback().await?;
    }
    Ok(pruned)
}

/// Deletes movements of at most `count` ledgers, and removes the ledgers that it is done with. Returns false if another
/// replica is pruning.
async fn prune_ledgers(
    connection: &mut PgConnection,
    retention: Duration,
    ledgers: &mut VecDeque<(String, i64)>,
    count: usize,
) -> Result<bool, sqlx::Error> {
    if ledgers.is_empty() {
        return Ok(true);
    }
    let mut transaction = connection.begin().await?;
    if !store::lock_pruning(&mut transaction).await? {
        transaction.rollback().await?;
        return Ok(false);
    }
    let mut movements = 0;
    for _ in 0..count {
        let Some((product_id, next)) = ledgers.front_mut() else { break };
        let PrunedLedger { opening, found } =
            store::prune_ledger(&mut transaction, product_id, *next, retention, MAX_MOVEMENTS).await?;
        match opening {
            Some(opening) if found == MAX_MOVEMENTS => *next = opening,
            _ => drop(ledgers.pop_front()),
        }
        movements += found;
        if movements >= MAX_MOVEMENTS {
            break;
        }
    }
    transaction.commit().await?;
    Ok(true)
}

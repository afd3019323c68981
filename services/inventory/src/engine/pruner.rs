//! Deletes what has been kept for long enough: reservations, and the oldest movements of ledgers.
//!
//! It works in short transactions that lock nothing a request needs. Of all replicas, one at a time does. Nothing waits
//! for it, so it rests most of the time.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use chassis::{Database, database::DatabaseError};
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

/// How often to start with the oldest reservations again, to find those that were skipped. While a long transaction
/// keeps the index entries of deleted rows, that can take long.
const START_OVER: Duration = Duration::from_secs(10);

/// How long a replica waits that found another one pruning, or could not prune.
const BACK_OFF: Duration = Duration::from_secs(10);

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
}

impl Pruner {
    pub(super) fn new(retention: Retention) -> Self {
        let now = Instant::now();
        let pass = Pass { due: now, after: String::new(), found: VecDeque::new() };
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
        if starts_over {
            self.start_over_at = now + START_OVER;
        }
        let is_done = self.try_step(database, starts_over).await;
        if !matches!(is_done, Ok(Some(_))) {
            self.backs_off_until = Instant::now() + BACK_OFF;
        }
        is_done.map(|is_done| is_done.unwrap_or(true))
    }

    /// Returns whether little is left; `None` if another replica is pruning.
    async fn try_step(&mut self, database: &Database, starts_over: bool) -> Result<Option<bool>, DatabaseError> {
        self.find_ledgers(database).await?;
        let retention = self.retention;
        let from = if starts_over { Uuid::nil() } else { self.next_reservation };
        // If the transaction fails, the next one repeats it.
        let mut ledgers = self.pass.found.clone();
        let pruned = database.run(async |connection| prune(connection, retention, from, &mut ledgers).await).await?;
        let Some((reservations, last)) = pruned else { return Ok(None) };
        self.pass.found = ledgers;
        self.next_reservation = last.unwrap_or(self.next_reservation);
        let is_pass_done = self.pass.after.is_empty() && self.pass.found.is_empty();
        Ok(Some(is_pass_done && reservations < i64::from(MAX_ROWS)))
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

/// Deletes reservations, starting with this id, and movements of ledgers, of which it removes those that it is done
/// with. Returns how many reservations it deleted and the highest id; `None` if another replica is pruning.
async fn prune(
    connection: &mut PgConnection,
    retention: Retention,
    from: Uuid,
    ledgers: &mut VecDeque<(String, i64)>,
) -> Result<Option<(i64, Option<Uuid>)>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    if !store::lock_pruning(&mut transaction).await? {
        transaction.rollback().await?;
        return Ok(None);
    }
    let limit = MAX_ROWS.into();
    let reservations = store::prune_reservations(&mut transaction, from, retention.reservations, limit).await?;
    if reservations == (0, None) && ledgers.is_empty() {
        transaction.rollback().await?;
        return Ok(Some(reservations));
    }
    if let Some(retention) = retention.ledgers {
        let mut movements = 0;
        for _ in 0..MAX_LEDGERS {
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
    }
    transaction.commit().await?;
    Ok(Some(reservations))
}

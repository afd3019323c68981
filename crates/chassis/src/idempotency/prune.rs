//! Deletes expired responses.

use std::time::{Duration, Instant};

use sqlx::types::chrono::{DateTime, Utc};
use tokio::time::sleep;

use super::table;
use crate::{
    database::{Database, DatabaseError, until_start_over},
    service::Context,
};

/// The pause between two rounds.
const PAUSE: Duration = Duration::from_hours(1);

/// The pause after a round that failed. If starting over failed, the next round goes on where the steps before ended.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_mins(1);

/// The maximum number of rows that a step deletes.
const MAX_ROWS: i64 = 1000;

/// Starts a task that deletes expired responses, at once and then every hour, until the process exits. Every replica
/// may run it: it never waits for a lock.
pub fn prune_in_background<A>(context: &Context<A>) {
    let database = context.database.clone();
    // The connections of the pool belong to this thread.
    context.requests.spawn(async move {
        let mut pruner = Pruner::new();
        loop {
            // Failures are not logged here: requests and the readiness check report an unavailable database.
            let is_pruned = prune_all(&database, &mut pruner).await.is_ok();
            sleep(if is_pruned { PAUSE } else { PAUSE_AFTER_FAILURE }).await;
        }
    });
}

/// Deletes all expired responses in small steps. Rests after each step for as long as it took.
async fn prune_all(database: &Database, pruner: &mut Pruner) -> Result<(), DatabaseError> {
    loop {
        let started = Instant::now();
        if pruner.step(database).await? {
            return Ok(());
        }
        sleep(started.elapsed()).await;
    }
}

/// Deletes expired responses in the order in which they expired, in steps of limited size. Now and then it starts over,
/// to find those that were locked.
pub struct Pruner {
    /// When the last response that was deleted expired. Starting there does not pass the index entries of deleted rows
    /// again, which stay until a vacuum, and while a long transaction is open.
    last: DateTime<Utc>,
    start_over_at: Instant,
}

impl Pruner {
    /// Creates a pruner that starts with the oldest response.
    #[must_use]
    pub fn new() -> Self {
        Self { last: DateTime::UNIX_EPOCH, start_over_at: Instant::now() }
    }

    /// Deletes a limited number of expired responses. Returns whether few were left.
    ///
    /// # Errors
    /// Returns an error if the statement fails.
    pub async fn step(&mut self, database: &Database) -> Result<bool, DatabaseError> {
        let started = Instant::now();
        let starts_over = started >= self.start_over_at;
        let from = if starts_over { DateTime::UNIX_EPOCH } else { self.last };
        let pruned = database.run(async |connection| table::prune(connection, from, MAX_ROWS).await).await;
        if starts_over {
            self.start_over_at = Instant::now() + until_start_over(started.elapsed());
        }
        let (count, last) = pruned?;
        self.last = self.last.max(last.unwrap_or_default());
        Ok(count < MAX_ROWS)
    }
}

impl Default for Pruner {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use sqlx::{PgPool, postgres::PgConnectOptions, raw_sql};
    use test_support::process::{TIMEOUT, eventually};

    use super::*;

    async fn count(pool: &PgPool, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(pool).await.expect("a count")
    }

    /// Inserts this many responses, of which one expired in each of the last milliseconds.
    async fn insert(pool: &PgPool, responses: i64) {
        let insert = "INSERT INTO idempotency (id, fingerprint, expires_at)
             SELECT uuid_send(gen_random_uuid()), '', clock_timestamp() - n * interval '1 ms' FROM generate_series(1, $1) AS n";
        sqlx::query(insert).bind(responses).execute(pool).await.expect("inserted");
    }

    fn start(pool: &PgPool) -> Database {
        let options = PgConnectOptions::clone(&pool.connect_options()).application_name("pruner");
        Database::new(options, 1, &Registry::new()).expect("a pool")
    }

    /// While a transaction with an old snapshot is open, as that of `pg_dump`, the index entries of deleted rows stay.
    /// Each step must start after them.
    #[sqlx::test(migrations = false)]
    async fn pruning_passes_deleted_responses_once(pool: PgPool) {
        const COUNT: i64 = 20_000;
        raw_sql(include_str!("table.sql")).execute(&pool).await.expect("a table");
        insert(&pool, COUNT).await;
        let mut old = pool.begin().await.expect("a transaction");
        raw_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT")
            .execute(&mut *old)
            .await
            .expect("a snapshot");
        let (database, mut pruner) = (start(&pool), Pruner::new());
        while !pruner.step(&database).await.expect("a step") {}
        assert_eq!(count(&pool, "SELECT count(*) FROM idempotency").await, 0);
        // Postgres has counted everything once the connection is closed.
        drop(database);
        eventually("the connection is closed", TIMEOUT, async || {
            let open = "SELECT count(*) FROM pg_stat_activity
                        WHERE datname = current_database() AND application_name = 'pruner'";
            (count(&pool, open).await == 0).then_some(())
        })
        .await;
        let passed = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'idempotency_expires_at'";
        let passed = count(&pool, passed).await;
        // A step that starts over passes each row once more. If each step did, it would be 10 times.
        assert!((COUNT..4 * COUNT).contains(&passed), "{passed} entries passed for {COUNT} rows");
        old.rollback().await.expect("closed");
    }

    #[sqlx::test(migrations = false)]
    async fn a_response_that_was_locked_is_deleted_later(pool: PgPool) {
        raw_sql(include_str!("table.sql")).execute(&pool).await.expect("a table");
        insert(&pool, 2).await;
        let mut lock = pool.begin().await.expect("a transaction");
        let oldest = "SELECT FROM idempotency ORDER BY expires_at LIMIT 1 FOR UPDATE";
        raw_sql(oldest).execute(&mut *lock).await.expect("locked");
        let (database, mut pruner) = (start(&pool), Pruner::new());
        assert!(pruner.step(&database).await.expect("a step"), "it does not wait");
        assert_eq!(count(&pool, "SELECT count(*) FROM idempotency").await, 1);
        lock.rollback().await.expect("unlocked");
        pruner.start_over_at = Instant::now();
        pruner.step(&database).await.expect("a step");
        assert_eq!(count(&pool, "SELECT count(*) FROM idempotency").await, 0);
    }
}

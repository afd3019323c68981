//! Deletes expired responses.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::table;
use crate::{
    database::{Database, DatabaseError},
    service::Context,
};

/// The pause between two rounds.
const PAUSE: Duration = Duration::from_hours(1);

/// The maximum number of rows that a statement deletes.
const MAX_ROWS: i64 = 1000;

/// Starts a task that deletes expired responses, at once and then every hour, until the process exits. Every replica
/// may run it: it never waits for a lock.
pub fn prune_in_background(context: &Context) {
    let database = context.database.clone();
    // The connections of the pool belong to this thread.
    context.requests.spawn(async move {
        loop {
            // Failures are not logged here: requests and the readiness check report an unavailable database.
            let _ = prune_all(&database).await;
            sleep(PAUSE).await;
        }
    });
}

/// Deletes all expired responses in small steps. Rests after each step for as long as it took.
async fn prune_all(database: &Database) -> Result<(), DatabaseError> {
    loop {
        let started = Instant::now();
        let pruned = database.run(async |connection| table::prune(connection, MAX_ROWS).await).await?;
        if pruned < MAX_ROWS.unsigned_abs() {
            return Ok(());
        }
        sleep(started.elapsed()).await;
    }
}

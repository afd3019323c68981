//! Deletes expired sessions and counts of attempts.

use std::time::{Duration, Instant};

use chassis::{Context, Database, database::DatabaseError};
use tokio::time::sleep;

use crate::{
    settings::IssuerArgs,
    store::{session, throttle},
};

/// The pause between two rounds.
const PAUSE: Duration = Duration::from_mins(10);

/// The maximum number of rows that a step deletes.
const MAX_ROWS: i64 = 1000;

/// Starts a task that deletes what has expired, until the process exits. Every replica may run it: it never waits for a
/// lock.
pub(crate) fn prune_in_background(context: &Context<IssuerArgs>) {
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

/// Deletes everything that has expired, in small steps. Rests after each step for as long as it took.
async fn prune_all(database: &Database) -> Result<(), DatabaseError> {
    loop {
        let started = Instant::now();
        let sessions = database.run(async |connection| session::prune(connection, MAX_ROWS).await).await?;
        let counts = database.run(async |connection| throttle::prune(connection, MAX_ROWS).await).await?;
        if sessions.max(counts) < MAX_ROWS.unsigned_abs() {
            return Ok(());
        }
        sleep(started.elapsed()).await;
    }
}

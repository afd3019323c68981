//! Settles expired holds of products that nobody asks for, and deletes what is no longer needed: settled expiries,
//! stored responses, and what has been kept for long enough.
//!
//! Requests do not depend on it: they settle what they touch. So it works in small steps on a connection of the pool,
//! never waits for a lock, and rests at least as long as it worked. Every replica sweeps. A step that fails does not
//! keep the others from being done.

use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use chassis::{Database, LogLimit, chain, database::DatabaseError, idempotency};
use futures_util::FutureExt;
use tokio::time::sleep;

use super::{
    pruner::{self, Pruner},
    settler::Settler,
};
use crate::model::Retention;

/// The pause after a sweep that found little to do.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a round may take.
const ROUND: Duration = Duration::from_mins(1);

/// The shortest time between two log lines about steps that fail. They are tried again every second.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// Sweeps until the process exits.
pub(super) async fn run(database: Database, retention: Retention) {
    let (mut settler, mut responses, mut pruner) = (Settler::new(), idempotency::Pruner::new(), Pruner::new(retention));
    loop {
        // The panic hook has reported a panic. The next round starts anew.
        let _ = AssertUnwindSafe(round(&database, &mut settler, &mut responses, &mut pruner)).catch_unwind().await;
        sleep(PAUSE).await;
    }
}

/// Sweeps until little is left, at most for [`ROUND`]. The next round finds what was locked.
async fn round(database: &Database, settler: &mut Settler, responses: &mut idempotency::Pruner, pruner: &mut Pruner) {
    let started = Instant::now();
    while started.elapsed() < ROUND {
        let step = Instant::now();
        let is_swept = sweep(database, settler, responses).await;
        sleep(step.elapsed()).await;
        let step = Instant::now();
        let is_pruned = is_done("prune", pruner.step(database).await);
        if is_swept && is_pruned {
            return;
        }
        sleep(pruner::REST * step.elapsed()).await;
    }
}

/// Settles and deletes a limited number of expiries, and deletes stored responses. Returns whether little is left.
async fn sweep(database: &Database, settler: &mut Settler, responses: &mut idempotency::Pruner) -> bool {
    let is_settled = is_done("settle", settler.step(database).await);
    is_done("delete responses", responses.step(database).await) && is_settled
}

/// Whether a step left little to do. One that failed is done for this round.
fn is_done(step: &str, result: Result<bool, DatabaseError>) -> bool {
    static LIMIT: LogLimit = LogLimit::new(LOG_INTERVAL);
    result.unwrap_or_else(|failure| {
        // Requests and the readiness check report an unavailable database.
        if let DatabaseError::Refused(error) | DatabaseError::Panicked(error) = failure
            && let Some(omitted) = LIMIT.due()
        {
            tracing::error!(step, cause = chain(&error), omitted, "sweeping failed");
        }
        true
    })
}

//! Expires overdue holds and prunes stored responses.
//!
//! Every replica sweeps. Lines are settled under their product's lock, so each is settled once.

use std::{sync::Arc, time::Duration};

use chassis::{Database, batch::Batcher};
use futures_util::future::join_all;
use tokio::time::sleep;

use super::{
    request::Request,
    writer::{Writer, send},
};
use crate::store;

/// The pause after a sweep that found little to do.
const PAUSE: Duration = Duration::from_secs(1);

/// The maximum number of overdue lines that a sweep looks for.
const MAX_LINES: i64 = 1000;

/// The maximum number of stored responses that a sweep deletes.
const MAX_RESPONSES: i64 = 1000;

/// Sweeps until the process exits.
pub(super) async fn run(database: Database, changes: Arc<Batcher<Writer>>) {
    loop {
        let (products, responses) = (settle(&database, &changes).await, prune(&database).await);
        // Failures are not logged here: requests and the readiness check report an unavailable database.
        let is_done = products.unwrap_or_default() == 0 && responses.unwrap_or_default() < MAX_RESPONSES.unsigned_abs();
        if is_done {
            sleep(PAUSE).await;
        }
    }
}

/// Settles overdue lines. Returns the number of products settled, or `None` if any failed.
async fn settle(database: &Database, changes: &Batcher<Writer>) -> Option<usize> {
    let products = database.run(async |connection| store::overdue_products(connection, MAX_LINES).await).await.ok()?;
    let settling = products.into_iter().map(|product_id| send(changes, |reply| Request::Settle { product_id, reply }));
    let settled = join_all(settling).await;
    settled.iter().all(Result::is_ok).then_some(settled.len())
}

async fn prune(database: &Database) -> Option<u64> {
    database.run(async |connection| store::prune(connection, MAX_RESPONSES).await).await.ok()
}

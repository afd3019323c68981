//! What has had its day: expired holds of products that nobody writes, and answers kept for long enough.
//!
//! Every replica sweeps. A line is settled under its product's lock, so only once; who comes later finds nothing to do.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use super::{Inventory, request::Command};
use crate::store;

/// Time between two looks when the one before found little.
const PAUSE: Duration = Duration::from_secs(1);

/// How many lines a look finds, and how many answers it forgets.
const LINES: i64 = 1000;
const ANSWERS: i64 = 1000;

/// Sweeps until the process ends.
pub(super) async fn run(inventory: Inventory) {
    loop {
        let (lines, answers) = (settle(&inventory).await, prune(&inventory).await);
        // Without a database there is nothing to do, and others say so.
        let is_done = lines.unwrap_or_default() == 0 && answers.unwrap_or_default() < ANSWERS.unsigned_abs();
        if is_done {
            sleep(PAUSE).await;
        }
    }
}

/// Settles overdue lines, and returns of how many products.
async fn settle(inventory: &Inventory) -> Option<usize> {
    let find = async |connection: &mut sqlx::PgConnection| store::overdue_products(connection, LINES).await;
    let products = inventory.database().run(find).await.ok()?;
    let settled = join_all(products.into_iter().map(|product| inventory.ask(Command::Settle(product), None))).await;
    // Where it failed there is a reason to wait.
    settled.iter().all(Result::is_ok).then_some(settled.len())
}

async fn prune(inventory: &Inventory) -> Option<u64> {
    let prune = async |connection: &mut sqlx::PgConnection| store::prune(connection, ANSWERS).await;
    inventory.database().run(prune).await.ok()
}

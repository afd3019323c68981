//! A service whose first thread, that of batches of changes, is busy.

use std::time::Duration;

use sqlx::PgPool;
use test_support::process::{PATIENCE, eventually};
use tokio::time::timeout;

use crate::start;

/// Less than a read may take: after that it is done once more.
const GIVEN_UP: Duration = Duration::from_secs(5);

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn reads_wait_for_no_thread_but_their_own(pool: PgPool) {
    let app = start(&pool).await;
    let read = async || {
        assert_eq!(app.get("/inventory/p").await.json(200)["stock"], 0);
        assert_eq!(app.get("/inventory").await.rows().len(), 0);
    };
    // What it has connected is in the pool then, for a read to take.
    let swept = "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND state = 'idle' AND query LIKE 'DELETE FROM idempotency%'";
    eventually("the sweeper has done its work", PATIENCE, async || {
        let count: i64 = sqlx::query_scalar(swept).fetch_one(&pool).await.expect("a count");
        (count == 1).then_some(())
    })
    .await;
    // It connects: to the service, and the service to its database.
    read().await;
    let _busy = app.keep_busy().await;
    timeout(GIVEN_UP, read()).await.expect("it is not done again, on a new connection");
}

//! Reads while the thread that writes batches is busy.

use std::time::Duration;

use sqlx::PgPool;
use test_support::process::{TIMEOUT, eventually};
use tokio::time::timeout;

use crate::start;

/// Shorter than the timeout of a read, which would be retried.
const DEADLINE: Duration = Duration::from_secs(5);

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn reads_do_not_wait_for_the_thread_that_writes(pool: PgPool) {
    let app = start(&pool).await;
    let read = async || {
        assert_eq!(app.get("/inventory/p").await.json(200)["stock"], 0);
        assert_eq!(app.get("/inventory").await.rows().len(), 0);
    };
    // A sweep with nothing to prune ends with this. Its connection is then in the pool, available to reads.
    let swept = "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND state = 'idle' AND query = 'ROLLBACK'";
    eventually("the sweeper has run", TIMEOUT, async || {
        let count: i64 = sqlx::query_scalar(swept).fetch_one(&pool).await.expect("a count");
        (count == 1).then_some(())
    })
    .await;
    // Connects the client to the service, and the service to its database.
    read().await;
    let _busy = app.keep_busy().await;
    timeout(DEADLINE, read()).await.expect("the read needs no retry");
}

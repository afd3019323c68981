//! Finds out whether a change took effect after its connection was lost.

use std::time::Duration;

use chassis::database::DedicatedConnection;
use futures_util::future::BoxFuture;
use sqlx::PgConnection;
use tokio::time;

/// How long to look for the outcome: longer than Postgres keeps a transaction open after its client has disappeared.
const TIMEOUT: Duration = Duration::from_secs(4);

/// The pause between attempts while the database is unavailable.
const PAUSE: Duration = Duration::from_millis(20);

/// How long after its start a change that certainly had no effect is retried. Its requests must be answered in time.
pub(super) const RETRY_PERIOD: Duration = Duration::from_secs(4);

/// Runs a query on a new connection until it succeeds. Returns `None` if it does not succeed in time.
pub(super) async fn find<T>(
    connection: &mut DedicatedConnection,
    mut query: impl Fn(&mut PgConnection) -> BoxFuture<'_, Result<T, sqlx::Error>>,
) -> Option<T> {
    let find = async {
        loop {
            if let Ok(found) = connection.run(&mut query, |connection, query| query(connection)).await {
                return found;
            }
            time::sleep(PAUSE).await;
        }
    };
    time::timeout(TIMEOUT, find).await.ok()
}

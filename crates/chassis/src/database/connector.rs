//! Opens connections to the database, and checks those that are reused.

use std::time::Duration;

use deadpool::managed::{Manager, Metrics, RecycleError, RecycleResult};
use prometheus::Histogram;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, postgres::PgConnectOptions};
use tokio::time;

use super::error::timed_out;

/// How long a task waits for a connection, either until one is free or until a new one is open.
pub(super) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection that was idle for longer is pinged before it is used. Shorter than any restart of Postgres, so that no
/// request after a restart gets a connection from before it. Under load no connection is idle for so long.
const TEST_AFTER_IDLE: Duration = Duration::from_millis(50);

/// How long the reply to a ping may take.
const PING_TIMEOUT: Duration = Duration::from_millis(500);

/// The maximum age of a connection. After a failover, all connections are on the new server by then.
const MAX_AGE: Duration = Duration::from_mins(30);

/// Settings of each session: limits, so that neither a lost client nor a lost lock holder blocks others for long, and
/// plans that do not depend on statistics, and so not on when they were made.
pub const SESSION: [(&str, &str); 12] = [
    ("statement_timeout", "5s"),
    ("lock_timeout", "4s"),
    // Shorter than the lock timeout: a session that waits for a lock of a lost client still gets it.
    ("idle_in_transaction_session_timeout", "2s"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    // Every statement is short and finds rows by key, so one plan is enough. The other kinds of plan are only better
    // for a table that is small when the plan is made, and are used until the connection is closed.
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    // Compiling a plan takes longer than any statement does.
    ("jit", "off"),
];

/// How often the server checks while it runs a statement, or waits for a lock, whether its client is still there. By
/// default it notices at the end. Until then the session keeps its locks, and counts against the limits of the server.
const WATCH_CLIENT: &str = "SET client_connection_check_interval = '250ms'";

/// Opens connections, and checks those that are reused.
#[derive(Clone)]
pub(super) struct Connector {
    options: PgConnectOptions,
    /// Time spent waiting for a connection.
    pub(super) wait: Histogram,
}

impl Connector {
    pub(super) fn new(options: PgConnectOptions, wait: Histogram) -> Self {
        Self { options: options.options(SESSION), wait }
    }

    /// Sets how long the sessions wait for a lock.
    pub(super) fn set_lock_timeout(&mut self, timeout: Duration) {
        // Of two values of a setting, the later one counts.
        let timeout = format!("{}ms", timeout.as_millis());
        self.options = self.options.clone().options([("lock_timeout", timeout)]);
    }

    /// Opens a connection outside of the pool.
    pub(super) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let _timer = self.wait.start_timer();
        time::timeout(ACQUIRE_TIMEOUT, self.open()).await.unwrap_or_else(|_| Err(timed_out()))
    }

    async fn open(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = self.options.connect().await?;
        match connection.execute(WATCH_CLIENT).await {
            // Not every operating system offers it to Postgres, so it is no option of the login.
            Ok(_) | Err(sqlx::Error::Database(_)) => Ok(connection),
            Err(error) => Err(error),
        }
    }
}

/// Returns whether a connection can be used again: it is not too old and, if it was idle, the server responds to a
/// ping.
pub(super) async fn is_reusable(connection: &mut PgConnection, age: Duration, idle: Duration) -> bool {
    age <= MAX_AGE
        && (idle <= TEST_AFTER_IDLE || matches!(time::timeout(PING_TIMEOUT, connection.ping()).await, Ok(Ok(()))))
}

impl Manager for Connector {
    type Type = PgConnection;
    type Error = sqlx::Error;

    async fn create(&self) -> Result<PgConnection, sqlx::Error> {
        self.open().await
    }

    async fn recycle(&self, connection: &mut PgConnection, metrics: &Metrics) -> RecycleResult<sqlx::Error> {
        if is_reusable(connection, metrics.age(), metrics.last_used()).await {
            return Ok(());
        }
        // The pool opens another one and reports no reason.
        Err(RecycleError::message("the connection is too old or was lost"))
    }
}

//! The connection to a service's own Postgres database.

use std::{fmt, io, str::FromStr, time::Duration};

use prometheus::Histogram;
use sqlx::{
    Connection, PgConnection, PgPool, Postgres, Transaction,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::Instant;

use crate::metrics::Metrics;

/// How long a request waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection that was idle for longer is asked whether it still works before it is used. Shorter than any restart
/// of Postgres, so that no request after one meets a connection from before it; under load no connection is idle so long.
const TRUST_IDLE: Duration = Duration::from_millis(50);

/// Settings of each session: limits, so that neither a lost client nor a lost lock holder blocks others for long.
const SESSION: [(&str, &str); 7] = [
    ("statement_timeout", "5s"),
    ("lock_timeout", "4s"),
    ("idle_in_transaction_session_timeout", "5s"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    // Every statement here is short and looks rows up by key: planning it once is enough.
    ("plan_cache_mode", "force_generic_plan"),
];

/// A Postgres URL. It holds a password, so it is never shown.
#[derive(Clone)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// Parses the URL.
    ///
    /// # Errors
    /// A text that names the expected form and repeats nothing of the URL.
    pub fn options(&self) -> Result<PgConnectOptions, &'static str> {
        let expected = "DATABASE_URL must be a URL such as postgres://USER:PASSWORD@HOST:5432/DATABASE";
        if !self.0.starts_with("postgres://") && !self.0.starts_with("postgresql://") {
            return Err(expected);
        }
        PgConnectOptions::from_str(&self.0).map_err(|_| expected)
    }
}

impl From<String> for DatabaseUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl(***)")
    }
}

/// The pool that requests share.
#[derive(Clone)]
pub struct Database {
    pool: PgPool,
    wait: Histogram,
}

impl Database {
    /// Makes the pool; nothing is connected until it is needed.
    #[must_use]
    pub(crate) fn new(options: PgConnectOptions, size: u32, metrics: &Metrics) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(size)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for > TRUST_IDLE {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(options.options(SESSION));
        let wait = metrics.watch_pool(pool.clone());
        Self { pool, wait }
    }

    /// Takes a connection from the pool.
    ///
    /// # Errors
    /// When the database cannot be reached, or every connection stays busy for 2 s.
    pub async fn acquire(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        let _timer = self.wait.start_timer();
        self.pool.acquire().await
    }

    /// Takes a connection and begins a transaction on it.
    ///
    /// # Errors
    /// As [`Database::acquire`].
    pub async fn begin(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        let connection = self.acquire().await?;
        Transaction::begin(connection, None).await
    }

    /// A connection that one task keeps for itself.
    #[must_use]
    pub fn hold(&self) -> HeldConnection {
        HeldConnection { database: self.clone(), connection: None, last_used: Instant::now() }
    }
}

/// A connection of the pool that one task keeps between uses, which spares the pool's round trip at each release.
pub struct HeldConnection {
    database: Database,
    connection: Option<PoolConnection<Postgres>>,
    last_used: Instant,
}

impl HeldConnection {
    /// The connection; a new one where there is none, or where the old one went away while idle.
    ///
    /// # Errors
    /// As [`Database::acquire`].
    pub async fn get(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        let idle = self.last_used.elapsed() > TRUST_IDLE;
        self.last_used = Instant::now();
        if let Some(connection) = &mut self.connection
            && idle
            && connection.ping().await.is_err()
        {
            self.discard();
        }
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.database.acquire().await?,
        };
        Ok(self.connection.insert(connection))
    }

    /// Throws the connection away, after an error that left it in doubt.
    pub fn discard(&mut self) {
        drop(self.connection.take().map(PoolConnection::detach));
    }
}

/// Whether the database is away, overloaded or asks for another try, rather than refusing the statement itself.
#[must_use]
pub fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| is_transient(&code)),
        error => std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<io::Error>),
    }
}

/// Whether the transaction was rolled back for another one's sake: a deadlock or a serialization failure.
#[must_use]
pub fn lost_a_race(error: &sqlx::Error) -> bool {
    matches!(sql_state(error).as_deref(), Some("40001" | "40P01"))
}

/// The SQLSTATE of an error that Postgres answered.
#[must_use]
pub fn sql_state(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(Into::into)
}

/// By SQLSTATE (appendix A of the Postgres manual).
fn is_transient(code: &str) -> bool {
    let class = code.get(..2).unwrap_or_default();
    matches!(class, "08" | "53" | "57" | "58")
        || matches!(code, "40001" | "40P01" | "55P03" | "25P03")
        // The login is refused or the database is not there: its role is being made or its password renewed.
        || matches!(code, "28000" | "28P01" | "3D000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_never_shown() {
        let url = DatabaseUrl::from("mysql://ada:secret@localhost/x".to_owned());
        assert_eq!(format!("{url:?}"), "DatabaseUrl(***)");
        assert!(!url.options().expect_err("no Postgres URL").contains("secret"));
        let url = DatabaseUrl::from("postgres://ada:secret@localhost:badport/x".to_owned());
        assert!(!url.options().expect_err("a bad port").contains("secret"));
    }

    #[test]
    fn codes_worth_another_try() {
        for code in ["57P01", "57P03", "53300", "08006", "40001", "40P01", "55P03"] {
            assert!(is_transient(code), "{code}");
        }
        for code in ["23505", "22021", "42P01", ""] {
            assert!(!is_transient(code), "{code}");
        }
    }
}

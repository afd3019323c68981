//! The connection to a service's own Postgres database.

mod held;

use std::{fmt, future::Future, io, str::FromStr, time::Duration};

use deadpool::{
    Runtime,
    managed::{Manager, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult, TimeoutType, Timeouts},
};
use prometheus::Histogram;
use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use tokio::time;

use crate::metrics;

pub use held::HeldConnection;

/// How long a request waits for a connection, be it for one that others use or for a new one.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection that was idle for longer is asked whether it still works before it is used. Shorter than any restart
/// of Postgres, so that no request after one meets a connection from before it; under load no connection is idle so long.
const TRUST_IDLE: Duration = Duration::from_millis(50);

/// How long it may take to answer that.
const PING_TIMEOUT: Duration = Duration::from_millis(500);

/// How long work on a connection may take, whatever the peer does: longer than any statement may.
const WORK_TIMEOUT: Duration = Duration::from_secs(6);

/// A connection is replaced after so long, so that all end up on the new server after one was moved.
const LONGEST_LIFE: Duration = Duration::from_mins(30);

/// Settings of each session: limits, so that neither a lost client nor a lost lock holder blocks others for long.
const SESSION: [(&str, &str); 7] = [
    ("statement_timeout", "5s"),
    ("lock_timeout", "4s"),
    // Shorter than the wait for a lock: who waits for one that a vanished client holds gets it.
    ("idle_in_transaction_session_timeout", "2s"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    // Every statement here is short and looks rows up by key: planning it once is enough.
    ("plan_cache_mode", "force_generic_plan"),
];

/// Why there is no connection, or no answer on one.
const NO_ANSWER: &str = "the database does not answer";

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

/// The connections that requests share. They are woken on the thread that made them: that of the requests.
#[derive(Clone)]
pub struct Database {
    pool: Pool<Connector>,
    wait: Histogram,
}

/// Makes connections, and looks at those that are used again.
struct Connector(PgConnectOptions);

impl Manager for Connector {
    type Type = PgConnection;
    type Error = sqlx::Error;

    async fn create(&self) -> Result<PgConnection, sqlx::Error> {
        self.0.connect().await
    }

    async fn recycle(&self, connection: &mut PgConnection, metrics: &Metrics) -> RecycleResult<sqlx::Error> {
        if metrics.age() > LONGEST_LIFE {
            return Err(RecycleError::message("it has lived long enough"));
        }
        if metrics.last_used() > TRUST_IDLE {
            connection.ping().await?;
        }
        Ok(())
    }
}

/// Why work on the database did not come to its end, and so what is known of its effects.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There was no connection: nothing was asked.
    #[error("no database connection: {0}")]
    NotBegun(#[source] sqlx::Error),
    /// Postgres refused a statement: its transaction has no effect.
    #[error(transparent)]
    Refused(sqlx::Error),
    /// The connection was lost, or an answer did not come in time: a statement that was sent may have had its effect.
    #[error("the database connection was lost: {0}")]
    Lost(#[source] sqlx::Error),
}

impl Failure {
    /// What went wrong.
    #[must_use]
    pub fn error(&self) -> &sqlx::Error {
        let (Self::NotBegun(error) | Self::Refused(error) | Self::Lost(error)) = self;
        error
    }

    /// Whether nobody knows if a statement that changes something had its effect.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Lost(_))
    }

    /// Sorts an error by whether Postgres answered it, about the statement.
    fn of(error: sqlx::Error) -> Self {
        let about_the_statement = error.as_database_error().is_some()
            // Of an ending server (57), a broken one (58, XX) or connection (08), one cannot say how far it came.
            && !sql_state(&error).is_some_and(|code| matches!(code.get(..2), Some("08" | "57" | "58" | "XX")))
            || matches!(error, sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. });
        // A statement that took too long was stopped, by its own limit (57014).
        if about_the_statement || sql_state(&error).as_deref() == Some("57014") {
            Self::Refused(error)
        } else {
            Self::Lost(error)
        }
    }

    /// Whether the connection can be used again for certain.
    fn leaves_the_connection_sound(&self) -> bool {
        // A data exception or a violated constraint.
        let of_the_data = sql_state(self.error()).is_some_and(|code| matches!(code.get(..2), Some("22" | "23")));
        matches!(self, Self::Refused(_)) && (of_the_data || lost_a_race(self.error()))
    }
}

impl Database {
    /// Makes the pool; nothing is connected until it is needed.
    ///
    /// # Errors
    /// Where the pool cannot be built: a mistake in the code.
    pub(crate) fn new(options: PgConnectOptions, size: u32, metrics: &metrics::Metrics) -> anyhow::Result<Self> {
        let timeouts =
            Timeouts { wait: Some(ACQUIRE_TIMEOUT), create: Some(ACQUIRE_TIMEOUT), recycle: Some(PING_TIMEOUT) };
        let pool = Pool::builder(Connector(options.options(SESSION)))
            .max_size(usize::try_from(size)?)
            .timeouts(timeouts)
            .runtime(Runtime::Tokio1)
            .build()?;
        let status = pool.clone();
        let wait = metrics.watch_pool(move || {
            let status = status.status();
            (status.available, status.size - status.available)
        });
        Ok(Self { pool, wait })
    }

    /// Does some work on a connection, within 6 s.
    ///
    /// # Errors
    /// As [`Failure`] tells.
    pub async fn run<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, Failure> {
        let mut lease = self.acquire().await.map_err(Failure::NotBegun)?;
        let result = limited(work(lease.connection())).await;
        if result.as_ref().err().is_none_or(Failure::leaves_the_connection_sound) {
            lease.give_back();
        }
        result
    }

    /// A connection that one task keeps for itself; the pool has room for one less.
    #[must_use]
    pub fn hold(&self) -> HeldConnection {
        self.pool.resize(self.pool.status().max_size.saturating_sub(1));
        HeldConnection::of(self.clone())
    }

    /// Makes a connection that is not of the pool.
    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let _timer = self.wait.start_timer();
        let connecting = time::timeout(ACQUIRE_TIMEOUT, self.pool.manager().create()).await;
        connecting.unwrap_or_else(|_| Err(timed_out(NO_ANSWER)))
    }

    async fn acquire(&self) -> Result<Lease, sqlx::Error> {
        let _timer = self.wait.start_timer();
        match self.pool.get().await {
            Ok(connection) => Ok(Lease(Some(connection))),
            Err(PoolError::Backend(error)) => Err(error),
            Err(PoolError::Timeout(TimeoutType::Create)) => Err(timed_out(NO_ANSWER)),
            Err(_) => Err(sqlx::Error::PoolTimedOut),
        }
    }
}

/// A connection of the pool in use. Dropped before it is given back, as when a request is cut off, it is closed: nobody
/// knows what goes on on it.
struct Lease(Option<Object<Connector>>);

impl Lease {
    /// The connection.
    ///
    /// # Panics
    /// Never: it is there until it is given back, which consumes this.
    fn connection(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("it is there until it is given back")
    }

    fn give_back(mut self) {
        self.0.take();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Out of the pool, and closed without a farewell that a dead peer would not answer.
        drop(self.0.take().map(Object::take));
    }
}

/// Runs work with a limit of time, and tells what its failure means.
///
/// # Errors
/// [`Failure::Refused`] and [`Failure::Lost`].
pub async fn limited<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Failure> {
    match time::timeout(WORK_TIMEOUT, work).await {
        Ok(result) => result.map_err(Failure::of),
        Err(_) => Err(Failure::Lost(timed_out(NO_ANSWER))),
    }
}

fn timed_out(what: &'static str) -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, what))
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

/// Whether a lock was not granted in time because another transaction holds it.
#[must_use]
pub fn is_lock_timeout(error: &sqlx::Error) -> bool {
    sql_state(error).as_deref() == Some("55P03")
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

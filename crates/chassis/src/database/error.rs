//! What is known after database work failed: whether anything was sent, and whether it may have had its effect.

use std::{error::Error, io, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use runtime::{Problem, panic_text};
use sqlx::postgres::PgDatabaseError;
use tokio::time;

/// How long work on a connection may take, whatever the server does. Longer than any statement may take.
const WORK_TIMEOUT: Duration = Duration::from_secs(6);

/// How often work is retried after a deadlock or a serialization failure.
const RETRIES: usize = 3;

/// The SQLSTATE of a lock that was not granted in time because another transaction holds it.
const LOCK_TIMEOUT: &str = "55P03";

/// The SQLSTATE of a change while the database is read-only, as a standby is, or one that a managed Postgres protects from
/// a full disk.
const READ_ONLY: &str = "25006";

/// Why there is no connection, or no reply on one.
const NO_RESPONSE: &str = "the database does not respond";

/// Why database work failed, and thereby what is known of its effects.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// There was no connection, or it was lost before COMMIT was sent: nothing was changed.
    #[error("no database connection: {0}")]
    NoConnection(#[source] sqlx::Error),
    /// Postgres refused a statement, or the work failed before COMMIT was sent: the transaction has no effect.
    #[error(transparent)]
    Refused(sqlx::Error),
    /// The connection was lost, or a reply timed out: a statement that was sent may have taken effect.
    #[error("the database connection was lost: {0}")]
    Lost(#[source] sqlx::Error),
    /// The work panicked, because of a bug: a statement that was sent may have taken effect.
    #[error(transparent)]
    Panicked(sqlx::Error),
}

impl DatabaseError {
    /// Returns the error of the driver.
    #[must_use]
    pub fn error(&self) -> &sqlx::Error {
        let (Self::NoConnection(error) | Self::Refused(error) | Self::Lost(error) | Self::Panicked(error)) = self;
        error
    }

    /// Returns whether the connection was lost, or a reply timed out.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Lost(_))
    }

    /// Returns whether a statement may have taken effect although its result is unknown.
    #[must_use]
    pub fn may_have_effect(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::Panicked(_))
    }

    /// What is known if all statements were in a transaction whose COMMIT was not sent: nothing was changed.
    #[must_use]
    pub fn before_commit(self) -> Self {
        match self {
            Self::Lost(error) => Self::NoConnection(error),
            Self::Panicked(error) => Self::Refused(error),
            failure => failure,
        }
    }

    /// Builds the problem for work that changes nothing, or certainly had no effect: 503 if the database is
    /// unavailable, else 500.
    #[must_use]
    pub fn into_problem(self: Arc<Self>) -> Problem {
        if is_lock_timeout(self.error()) {
            Problem::unavailable("the data is locked by another transaction; try again in a moment").caused_by(self)
        } else if sql_state(self.error()).as_deref() == Some(READ_ONLY) {
            Problem::unavailable("the database is read-only; try again later").caused_by(self)
        } else if self.is_lost() || is_unavailable(self.error()) {
            Problem::unavailable("the database does not respond; try again in a moment").caused_by(self)
        } else {
            Problem::internal(self)
        }
    }

    /// Builds the problem for work that changes data: `outcome-unknown` if it may have had its effect.
    #[must_use]
    pub fn into_change_problem(self) -> Problem {
        if self.may_have_effect() { Problem::outcome_unknown().caused_by(self) } else { self.into() }
    }

    /// Classifies an error by whether it is Postgres's reply to the statement.
    fn classify(error: sqlx::Error) -> Self {
        let is_about_the_statement = error.as_database_error().is_some()
            // If the server shuts down (57), is broken (58, XX) or loses the connection (08), the statement's progress
            // is unknown.
            && !sql_state(&error).is_some_and(|code| matches!(code.get(..2), Some("08" | "57" | "58" | "XX")))
            || matches!(error, sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. });
        // 57014: the statement exceeded its own time limit, perhaps while it waited for a lock, and was cancelled.
        // Postgres does not cancel a transaction that it is committing.
        if is_about_the_statement || sql_state(&error).as_deref() == Some("57014") {
            Self::Refused(error)
        } else {
            Self::Lost(error)
        }
    }
}

impl From<DatabaseError> for Problem {
    fn from(failure: DatabaseError) -> Self {
        Arc::new(failure).into_problem()
    }
}

/// Returns whether the connection is certainly usable after work with this result: the work succeeded, or failed with a
/// data exception, a violated constraint, a value that cannot be decoded, a lock timeout or a serialization failure.
pub(super) fn is_usable_after<T>(result: &Result<T, DatabaseError>) -> bool {
    match result {
        Ok(_) => true,
        Err(DatabaseError::Refused(error)) => {
            is_of_one_request(error) || is_lock_timeout(error) || is_serialization_failure(error)
        }
        Err(_) => false,
    }
}

/// Returns whether a single request of a batch may have made it fail: by a data exception, a violated constraint, a
/// stored value that this version cannot decode, or a panic. Then the others succeed without it.
#[must_use]
pub fn concerns_one_request(failure: &DatabaseError) -> bool {
    let is_panic = |error: &sqlx::Error| matches!(error, sqlx::Error::InvalidArgument(_));
    matches!(failure, DatabaseError::Refused(error) if is_of_one_request(error) || is_panic(error))
}

fn is_of_one_request(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Decode(_))
        || sql_state(error).is_some_and(|code| matches!(code.get(..2), Some("22" | "23")))
}

/// Runs database work with a time limit, and classifies its failure. A panic of the work is a failure too.
///
/// # Errors
/// Returns [`DatabaseError::Refused`], [`DatabaseError::Lost`] or [`DatabaseError::Panicked`].
pub async fn with_timeout<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, DatabaseError> {
    match time::timeout(WORK_TIMEOUT, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(result)) => result.map_err(DatabaseError::classify),
        Ok(Err(panic)) => Err(DatabaseError::Panicked(sqlx::Error::InvalidArgument(panic_text(panic.as_ref())))),
        Err(_) => Err(DatabaseError::Lost(timed_out())),
    }
}

/// The error of a database that does not reply in time.
pub(super) fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, NO_RESPONSE))
}

/// Returns whether the database is unavailable, overloaded or asks for a retry, rather than refusing the statement
/// itself.
#[must_use]
pub fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(database) => {
            is_stale_plan(error) || database.code().is_some_and(|code| is_transient(&code))
        }
        error => error.source().is_some_and(<dyn Error>::is::<io::Error>),
    }
}

/// Returns whether the transaction was rolled back in favor of another one, by a serialization failure or a deadlock.
#[must_use]
pub fn is_serialization_failure(error: &sqlx::Error) -> bool {
    matches!(sql_state(error).as_deref(), Some("40001" | "40P01"))
}

/// Returns whether work that failed is run again: after a deadlock or a serialization failure, up to three times.
/// `retries` counts them.
pub(crate) fn is_retried(failure: &DatabaseError, retries: &mut usize) -> bool {
    let is_retried = *retries < RETRIES && is_serialization_failure(failure.error());
    *retries += usize::from(is_retried);
    is_retried
}

/// Returns whether a lock was not granted in time because another transaction holds it.
#[must_use]
pub fn is_lock_timeout(error: &sqlx::Error) -> bool {
    sql_state(error).as_deref() == Some(LOCK_TIMEOUT)
}

/// Returns whether a migration changed the type of a column that the statement, which was prepared before, returns.
/// Another connection prepares it anew.
fn is_stale_plan(error: &sqlx::Error) -> bool {
    let error = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    error.is_some_and(|error| error.code() == "0A000" && error.routine() == Some("RevalidateCachedQuery"))
}

/// Returns the SQLSTATE if the error is a reply of Postgres.
#[must_use]
pub fn sql_state(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(Into::into)
}

/// Classifies by SQLSTATE (appendix A of the Postgres manual).
fn is_transient(code: &str) -> bool {
    let class = code.get(..2).unwrap_or_default();
    matches!(class, "08" | "53" | "57" | "58")
        || matches!(code, "40001" | "40P01" | LOCK_TIMEOUT | READ_ONLY | "25P03")
        // The login is refused or the database is missing: its role is being created or its password rotated.
        || matches!(code, "28000" | "28P01" | "3D000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transient_codes_are_worth_a_retry() {
        for code in ["57P01", "57P03", "57014", "53300", "08006", "25006", "40001", "40P01", "55P03"] {
            assert!(is_transient(code), "{code}");
        }
        for code in ["23505", "22021", "42P01", ""] {
            assert!(!is_transient(code), "{code}");
        }
    }
}

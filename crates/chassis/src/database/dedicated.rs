//! A connection that one task keeps for itself, outside of the pool.

use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::PgConnection;
use tokio::time::Instant;

use super::{
    connector::{Connector, is_reusable},
    error::{DatabaseError, is_retried, is_usable_after, with_timeout},
};

/// A connection that one task keeps between uses. It is opened by that task, so that its replies wake no thread but the
/// task's own.
pub struct DedicatedConnection {
    connector: Connector,
    /// The connection, and when it was last used.
    kept: Option<(PgConnection, Instant)>,
    opened: Instant,
}

impl DedicatedConnection {
    pub(super) fn new(connector: Connector) -> Self {
        Self { connector, kept: None, opened: Instant::now() }
    }

    /// Sets how long a statement waits for each lock, in whole milliseconds, instead of 4 s.
    #[must_use]
    pub fn with_lock_timeout(mut self, timeout: Duration) -> Self {
        self.connector.set_lock_timeout(timeout);
        self
    }

    /// Runs work on the connection, within 6 s. After a deadlock or a serialization failure the work runs again, up to
    /// three times.
    ///
    /// The connection is kept only if it is certainly usable afterwards. If this future is dropped, it is closed.
    ///
    /// The work gets what it borrows as `input`, and its future is boxed: the compiler cannot prove yet that the future
    /// of an async closure with borrows is `Send`.
    ///
    /// # Errors
    /// Returns a [`DatabaseError`] that says what is known of the effects.
    pub async fn run<I, T>(
        &mut self,
        input: &mut I,
        work: impl for<'a> Fn(&'a mut PgConnection, &'a mut I) -> BoxFuture<'a, Result<T, sqlx::Error>>,
    ) -> Result<T, DatabaseError> {
        let mut retries = 0;
        loop {
            let mut connection = self.take().await.map_err(DatabaseError::NoConnection)?;
            let result = with_timeout(work(&mut connection, input)).await;
            if is_usable_after(&result) {
                self.kept = Some((connection, Instant::now()));
            }
            match result {
                Err(failure) if is_retried(&failure, &mut retries) => {}
                result => return result,
            }
        }
    }

    /// Takes the kept connection, or opens a new one if there is none, if it was lost while idle, or if it is too old.
    async fn take(&mut self) -> Result<PgConnection, sqlx::Error> {
        if let Some((mut connection, last_used)) = self.kept.take()
            && is_reusable(&mut connection, self.opened.elapsed(), last_used.elapsed()).await
        {
            return Ok(connection);
        }
        let connection = self.connector.connect().await?;
        self.opened = Instant::now();
        Ok(connection)
    }
}

//! A connection that a task keeps for itself, beside the pool.

use sqlx::{Connection, PgConnection};
use tokio::time::{self, Instant};

use super::{Database, Failure, LONGEST_LIFE, PING_TIMEOUT, TRUST_IDLE, lost_a_race};

/// How often work is tried again after a deadlock or a serialization failure.
const RETRIES: usize = 3;

/// A connection that one task keeps between uses. It is made by that task, so that what comes in on it wakes no thread but
/// the task's own.
pub struct HeldConnection {
    database: Database,
    /// The connection, and when it was last used.
    kept: Option<(PgConnection, Instant)>,
    made: Instant,
    /// How often the work at hand lost a race.
    tries: usize,
}

impl HeldConnection {
    pub(super) fn of(database: Database) -> Self {
        Self { database, kept: None, made: Instant::now(), tries: 0 }
    }

    /// Takes the connection for one use; a new one where there is none, where the old one went away while idle or is to be
    /// replaced. Dropped instead of given to [`Self::end`] it is closed.
    ///
    /// # Errors
    /// [`Failure::NotBegun`].
    pub async fn begin(&mut self) -> Result<PgConnection, Failure> {
        if let Some((mut connection, last_used)) = self.kept.take()
            && self.made.elapsed() <= LONGEST_LIFE
            && (last_used.elapsed() <= TRUST_IDLE
                || matches!(time::timeout(PING_TIMEOUT, connection.ping()).await, Ok(Ok(()))))
        {
            return Ok(connection);
        }
        let connection = self.database.connect().await.map_err(Failure::NotBegun)?;
        self.made = Instant::now();
        Ok(connection)
    }

    /// Ends the use, with what came of it: keeps the connection if that is certainly sound. True where another
    /// transaction was given precedence and the work is to be done again; at most three times.
    pub fn end<T>(&mut self, connection: PgConnection, result: &Result<T, Failure>) -> bool {
        if result.as_ref().err().is_none_or(Failure::leaves_the_connection_sound) {
            self.kept = Some((connection, Instant::now()));
        }
        let lost_a_race = result.as_ref().is_err_and(|failure| lost_a_race(failure.error()));
        self.tries = if lost_a_race && self.tries < RETRIES { self.tries + 1 } else { 0 };
        self.tries > 0
    }
}

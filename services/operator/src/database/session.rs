//! A connection on which every operation has a timeout, and the statements that it runs.

use std::{future::Future, time::Duration};

use sqlx::{
    AssertSqlSafe, Connection, FromRow, PgConnection,
    postgres::{PgArguments, PgConnectOptions, PgRow, Postgres},
    query::QueryAs,
};
use tokio::time;

use super::{
    error::{Error, Peer},
    identifier::Identifier,
};

/// The limit for logging in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The limit for one statement, in case the server has silently gone away. It is longer than the server's own limit.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(65);

/// The limit for locking a name. It is longer than the server's own limit.
const LOCK_TIMEOUT: Duration = Duration::from_secs(15);

/// The limit for reading the catalog, which is fast unless the server has silently gone away.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Creating or dropping a database copies or removes files and may wait for a checkpoint, so the limits are generous.
const SETTINGS: [(&str, &str); 5] = [
    ("statement_timeout", "60s"),
    ("lock_timeout", "10s"),
    ("idle_in_transaction_session_timeout", "10s"),
    // Release the locks of a session whose operator is gone.
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
];

/// The seed of the operator's advisory locks, which keeps them apart from those of others.
pub(super) const LOCK_SEED: i64 = 0x6865_6467_6572_6f77;

/// A query with its bind parameters.
pub(super) type Query<T> = QueryAs<'static, Postgres, T, PgArguments>;

/// One statement, with a description for errors and events.
#[derive(Debug, Clone)]
pub(super) struct Step {
    verb: Verb,
    object: String,
    pub(super) sql: String,
}

/// A verb in the infinitive and the past tense.
type Verb = (&'static str, &'static str);

pub(super) const CREATE: Verb = ("create", "created");
pub(super) const DROP: Verb = ("drop", "dropped");
pub(super) const GRANT: Verb = ("grant", "granted");
pub(super) const REVOKE: Verb = ("revoke", "revoked");
pub(super) const SET: Verb = ("set", "set");

impl Step {
    pub(super) fn new(verb: Verb, object: String, sql: String) -> Self {
        Self { verb, object, sql }
    }

    /// The description for errors: `create role "x"`.
    pub(super) fn action(&self) -> String {
        format!("{} {}", self.verb.0, self.object)
    }

    /// The description for events: `created role "x"`.
    pub(super) fn change(&self) -> String {
        format!("{} {}", self.verb.1, self.object)
    }
}

/// A connection to a server.
pub(super) struct Session {
    connection: PgConnection,
    peer: Peer,
}

impl Session {
    /// Logs in to `server`, which error messages name, as the admin or as the role of a service.
    pub(super) async fn open(server: String, options: &PgConnectOptions, is_admin: bool) -> Result<Self, Error> {
        let peer = Peer { server, role: options.get_username().to_owned(), is_admin };
        let options = options.clone().application_name("hedgerow-operator").options(SETTINGS);
        match time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&options)).await {
            Ok(Ok(connection)) => Ok(Self { connection, peer }),
            Ok(Err(error)) => Err(peer.classify(&error, "log in")),
            Err(_) => Err(peer.timeout(CONNECT_TIMEOUT)),
        }
    }

    /// Closes the connection cleanly, so that the server does not log an error.
    pub(super) async fn close(self) {
        let _ = time::timeout(CONNECT_TIMEOUT, self.connection.close()).await;
    }

    /// Locks the name until the session ends, in case another operator works on it.
    pub(super) async fn lock(&mut self, name: &Identifier) -> Result<(), Error> {
        let lock = sqlx::query("SELECT pg_advisory_lock(hashtextextended($1, $2))").bind(name.raw()).bind(LOCK_SEED);
        let lock = lock.execute(&mut self.connection);
        let action = format!("lock {name}, on which another operator is working");
        with_timeout(&self.peer, LOCK_TIMEOUT, &action, lock).await.map(drop)
    }

    /// Runs the steps in one transaction.
    pub(super) async fn run(&mut self, steps: &[Step]) -> Result<(), Error> {
        if let [step] = steps {
            return self.execute(&step.action(), step.sql.clone()).await;
        }
        self.execute("begin a transaction", "BEGIN".to_owned()).await?;
        for step in steps {
            self.execute(&step.action(), step.sql.clone()).await?;
        }
        self.execute("commit a transaction", "COMMIT".to_owned()).await
    }

    /// Runs a statement without bind parameters. Its names and texts are quoted.
    async fn execute(&mut self, action: &str, sql: String) -> Result<(), Error> {
        let statement = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.connection);
        with_timeout(&self.peer, STATEMENT_TIMEOUT, action, statement).await.map(drop)
    }

    /// Reads rows.
    pub(super) async fn read<T>(&mut self, query: Query<T>) -> Result<Vec<T>, Error>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        read(&self.peer, query.fetch_all(&mut self.connection)).await
    }

    /// Reads exactly one row.
    pub(super) async fn read_one<T>(&mut self, query: Query<T>) -> Result<T, Error>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        read(&self.peer, query.fetch_one(&mut self.connection)).await
    }
}

async fn read<T>(peer: &Peer, request: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Error> {
    match time::timeout(READ_TIMEOUT, request).await {
        Ok(result) => result.map_err(|error| peer.classify_read(&error, "read the current state")),
        Err(_) => Err(peer.read_timeout(READ_TIMEOUT)),
    }
}

async fn with_timeout<T>(
    peer: &Peer,
    limit: Duration,
    action: &str,
    request: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Error> {
    match time::timeout(limit, request).await {
        Ok(result) => result.map_err(|error| peer.classify(&error, action)),
        Err(_) => Err(peer.timeout(limit)),
    }
}

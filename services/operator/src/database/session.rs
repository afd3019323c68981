//! One connection, on which nothing takes longer than it may.

use std::{future::Future, time::Duration};

use sqlx::{
    AssertSqlSafe, Connection, FromRow, PgConnection,
    postgres::{PgArguments, PgConnectOptions, PgRow, Postgres},
    query::QueryAs,
};
use tokio::time;

use super::{Error, Server, error::Party, identifier::Identifier, plan::Step};

/// How long the server may take to let one in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one statement may take, were the server gone without a word; longer than what the server itself allows.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(65);

/// To make or drop a database, the server copies or removes files and may write a checkpoint.
const SETTINGS: [(&str, &str); 5] = [
    ("statement_timeout", "60s"),
    ("lock_timeout", "10s"),
    ("idle_in_transaction_session_timeout", "10s"),
    // A session that lost its operator lets go of its locks.
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
];

/// Makes the operator's advisory locks its own.
pub(super) const LOCK_SEED: i64 = 0x6865_6467_6572_6f77;

/// A query with what is bound to it.
pub(super) type Query<T> = QueryAs<'static, Postgres, T, PgArguments>;

/// A connection to a server.
pub(super) struct Session {
    connection: PgConnection,
    party: Party,
}

impl Session {
    pub(super) async fn open(server: &Server, options: &PgConnectOptions) -> Result<Self, Error> {
        let party = Party { server: server.to_string(), role: options.get_username().to_owned() };
        let options = options.clone().application_name("hedgerow-operator").options(SETTINGS);
        match time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&options)).await {
            Ok(Ok(connection)) => Ok(Self { connection, party }),
            Ok(Err(error)) => Err(party.explain(&error, "log in")),
            Err(_) => Err(party.silent(CONNECT_TIMEOUT)),
        }
    }

    /// Says goodbye, which spares the server's log a complaint.
    pub(super) async fn close(self) {
        let _ = time::timeout(CONNECT_TIMEOUT, self.connection.close()).await;
    }

    /// Has the name to itself on this database, until the session ends. Another operator may be at work.
    pub(super) async fn lock(&mut self, name: &Identifier) -> Result<(), Error> {
        let lock = sqlx::query("SELECT pg_advisory_lock(hashtextextended($1, $2))").bind(name.raw()).bind(LOCK_SEED);
        let lock = lock.execute(&mut self.connection);
        answer(&self.party, &format!("wait for another operator that is at work on {name}"), lock).await.map(drop)
    }

    /// Runs the steps, all or none.
    pub(super) async fn run(&mut self, steps: &[Step]) -> Result<(), Error> {
        if let [step] = steps {
            return self.execute(&step.action(), step.sql.clone()).await;
        }
        self.execute("begin", "BEGIN".to_owned()).await?;
        for step in steps {
            self.execute(&step.action(), step.sql.clone()).await?;
        }
        self.execute("commit", "COMMIT".to_owned()).await
    }

    /// For statements in which nothing can be bound: their names and texts are quoted.
    async fn execute(&mut self, action: &str, sql: String) -> Result<(), Error> {
        let statement = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.connection);
        answer(&self.party, action, statement).await.map(drop)
    }

    /// Reads rows.
    pub(super) async fn read<T>(&mut self, query: Query<T>) -> Result<Vec<T>, Error>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        answer(&self.party, "look at what is there", query.fetch_all(&mut self.connection)).await
    }

    /// Reads the one row there is.
    pub(super) async fn read_one<T>(&mut self, query: Query<T>) -> Result<T, Error>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        answer(&self.party, "look at what is there", query.fetch_one(&mut self.connection)).await
    }
}

async fn answer<T>(
    party: &Party,
    action: &str,
    exchange: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Error> {
    match time::timeout(ANSWER_TIMEOUT, exchange).await {
        Ok(answer) => answer.map_err(|error| party.explain(&error, action)),
        Err(_) => Err(party.silent(ANSWER_TIMEOUT)),
    }
}

//! `migrate`: applies pending migrations, once, before a new version of a service is rolled out.
//!
//! Migrations only add or widen, so that the previous version works with the new schema. Migrations in the database
//! that this binary does not know are therefore ignored: a newer version applied them.

use std::{fs::OpenOptions, io::Write, process::ExitCode, time::Duration};

use runtime::migration::{Migrated, UNREACHABLE};
use sqlx::{
    ConnectOptions, PgConnection,
    migrate::{MigrateError, Migrator},
    postgres::PgConnectOptions,
};
use tokio::time::{self, Instant};

use super::error::{is_lock_timeout, is_unavailable};

/// Kubernetes shows the content of this file as the container's termination message.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long failed connection attempts are retried: it takes a moment until a network policy admits a new pod.
const RETRY_PERIOD: Duration = Duration::from_secs(5);

/// The pause between two connection attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How long a statement of a migration waits for a lock. Requests queue behind it meanwhile, so it is shorter than they
/// wait. A transaction with a snapshot of all tables, such as that of `pg_dump`, may hold the lock for much longer.
const LOCK_TIMEOUT: &str = "1s";

/// For how long a migration that does not get a lock is retried: less than the operator's Job may take.
const LOCKED_RETRY_PERIOD: Duration = Duration::from_mins(8);

/// The first pause and the longest one before such a retry. Requests that waited are served meanwhile.
const LOCKED_PAUSE: Duration = Duration::from_secs(1);
const MAX_LOCKED_PAUSE: Duration = Duration::from_secs(10);

/// Returns the version of the latest migration.
pub(crate) fn latest_version(migrations: &Migrator) -> i64 {
    migrations.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Returns the schema version of the database; 0 before the first migration.
pub(crate) async fn schema_version(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    let migrated: bool =
        sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL").fetch_one(&mut *connection).await?;
    if !migrated {
        return Ok(0);
    }
    sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success")
        .fetch_one(connection)
        .await
}

/// Applies pending migrations. Reports the result in the log, the termination message and the exit status.
pub(crate) async fn run(options: PgConnectOptions, migrations: &Migrator) -> ExitCode {
    match migrate(options, migrations).await {
        Ok(version) => {
            tracing::info!(version, "schema up to date");
            let message = serde_json::to_string(&Migrated { schema_version: version });
            write_termination_message(&message.unwrap_or_default());
            ExitCode::SUCCESS
        }
        Err(failure) => {
            tracing::error!(retryable = failure.retryable, "{}", failure.message);
            write_termination_message(&failure.message);
            if failure.retryable { ExitCode::from(UNREACHABLE) } else { ExitCode::FAILURE }
        }
    }
}

/// Applies pending migrations and returns the version of the schema.
async fn migrate(options: PgConnectOptions, migrations: &Migrator) -> Result<i64, MigrationError> {
    let connection = connect(&options.options([("lock_timeout", LOCK_TIMEOUT)])).await?;
    apply(connection, migrations).await
}

#[derive(Debug)]
struct MigrationError {
    retryable: bool,
    message: String,
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, MigrationError> {
    let started = Instant::now();
    loop {
        let failure = match time::timeout(CONNECT_TIMEOUT, options.connect()).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => MigrationError { retryable: is_unavailable(&error), message: error.to_string() },
            Err(_) => MigrationError { retryable: true, message: "the database does not respond".to_owned() },
        };
        if !failure.retryable || started.elapsed() > RETRY_PERIOD {
            return Err(failure);
        }
        time::sleep(RETRY_PAUSE).await;
    }
}

async fn apply(mut connection: PgConnection, migrations: &Migrator) -> Result<i64, MigrationError> {
    let mut migrator = Migrator::with_migrations(migrations.iter().cloned().collect());
    migrator.set_ignore_missing(true);
    let started = Instant::now();
    let mut pause = LOCKED_PAUSE;
    while let Err(error) = migrator.run(&mut connection).await {
        let failure = explain(&error, migrations);
        if !cause(&error).is_some_and(is_lock_timeout) || started.elapsed() > LOCKED_RETRY_PERIOD {
            return Err(failure);
        }
        // The transaction was rolled back. The advisory lock stays, so no other migration overtakes this one.
        tracing::warn!("another transaction holds a lock; trying again in {pause:?}: {}", failure.message);
        time::sleep(pause).await;
        pause = MAX_LOCKED_PAUSE.min(pause * 2);
    }
    schema_version(&mut connection)
        .await
        .map_err(|error| MigrationError { retryable: is_unavailable(&error), message: error.to_string() })
}

/// Names the file that failed, and distinguishes an SQL error from a lost database.
fn explain(error: &MigrateError, migrations: &Migrator) -> MigrationError {
    let cause = cause(error);
    let version = match error {
        MigrateError::ExecuteMigration(_, version)
        | MigrateError::VersionMismatch(version)
        | MigrateError::Dirty(version) => Some(*version),
        _ => None,
    };
    let text = cause.map_or_else(|| error.to_string(), ToString::to_string);
    let file = version.and_then(|version| migrations.iter().find(|migration| migration.version == version));
    let message = match file {
        Some(file) => format!("{:04}_{}.sql: {text}", file.version, file.description.replace(' ', "_")),
        None => text,
    };
    MigrationError { retryable: cause.is_some_and(is_unavailable), message }
}

/// Postgres's part in a failed migration.
fn cause(error: &MigrateError) -> Option<&sqlx::Error> {
    match error {
        MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) => Some(cause),
        _ => None,
    }
}

fn write_termination_message(message: &str) {
    // The file exists only in a container. A failed write is ignored: the log has the message too.
    if let Ok(mut file) = OpenOptions::new().write(true).truncate(true).open(TERMINATION_LOG) {
        let _ = file.write_all(message.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use prometheus::Registry;
    use sqlx::{
        PgPool,
        migrate::{Migration, MigrationType},
        raw_sql,
    };
    use test_support::process::{TIMEOUT, eventually};

    use super::*;
    use crate::database::Database;

    /// The number of writers, each of which writes all the time.
    const WRITERS: usize = 4;

    #[sqlx::test(migrations = false)]
    async fn no_request_fails_behind_a_migration_that_waits_for_a_dump(pool: PgPool) {
        raw_sql("CREATE TABLE entry (number bigint)").execute(&pool).await.expect("a table");
        let sql =
            sqlx::SqlStr::from_static("ALTER TABLE entry ADD COLUMN text text; INSERT INTO entry VALUES (1, 'new')");
        let add = Migration::new(1, "add".into(), MigrationType::Simple, sql, false);
        let migrations = Migrator::with_migrations(vec![add]);
        let options = PgConnectOptions::clone(&pool.connect_options());
        let requests = Database::new(options.clone(), 4, &Registry::new()).expect("a pool");

        // A dump holds ACCESS SHARE on all tables until its end.
        let mut dump = pool.begin().await.expect("a transaction");
        raw_sql("LOCK TABLE entry IN ACCESS SHARE MODE").execute(&mut *dump).await.expect("locked");
        let attempts = async {
            let waiting = "SELECT count(*) FROM pg_stat_activity
                           WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'ALTER%'";
            let is_waiting = async || -> bool {
                let count: i64 = sqlx::query_scalar(waiting).fetch_one(&pool).await.expect("a count");
                count > 0
            };
            for _ in 0..2 {
                eventually("the migration waits", TIMEOUT, async || is_waiting().await.then_some(())).await;
                eventually("the migration gives up", TIMEOUT, async || (!is_waiting().await).then_some(())).await;
            }
            dump.commit().await.expect("the dump ends");
        };
        let write = async |_| {
            let mut count = 0;
            while version(&pool).await == 0 {
                let insert = sqlx::query("INSERT INTO entry (number) VALUES (0)");
                requests.run(async |connection| insert.execute(connection).await).await.expect("the request succeeds");
                count += 1;
            }
            count
        };
        let (migrated, (), written) =
            tokio::join!(migrate(options, &migrations), attempts, join_all((0..WRITERS).map(write)));
        assert_eq!(migrated.map_err(|error| error.message), Ok(1));
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM entry").fetch_one(&pool).await.expect("a count");
        assert_eq!(rows, written.iter().sum::<i64>() + 1, "the migration was applied once");
    }

    async fn version(pool: &PgPool) -> i64 {
        schema_version(&mut pool.acquire().await.expect("a connection")).await.expect("a version")
    }
}

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

use super::error::is_unavailable;

/// Kubernetes shows the content of this file as the container's termination message.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long failed connection attempts are retried: it takes a moment until a network policy admits a new pod.
const RETRY_PERIOD: Duration = Duration::from_secs(5);

/// The pause between two connection attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How long a statement waits for a lock that running requests hold, before the migration fails.
const LOCK_TIMEOUT: &str = "10s";

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
    let options = options.options([("lock_timeout", LOCK_TIMEOUT)]);
    let outcome = match connect(&options).await {
        Ok(connection) => apply(connection, migrations).await,
        Err(failure) => Err(failure),
    };
    match outcome {
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
    migrator.set_ignore_missing(true).run(&mut connection).await.map_err(|error| explain(&error, migrations))?;
    schema_version(&mut connection)
        .await
        .map_err(|error| MigrationError { retryable: is_unavailable(&error), message: error.to_string() })
}

/// Names the file that failed, and distinguishes an SQL error from a lost database.
fn explain(error: &MigrateError, migrations: &Migrator) -> MigrationError {
    let (cause, version) = match error {
        MigrateError::Execute(cause) => (Some(cause), None),
        MigrateError::ExecuteMigration(cause, version) => (Some(cause), Some(*version)),
        MigrateError::VersionMismatch(version) | MigrateError::Dirty(version) => (None, Some(*version)),
        _ => (None, None),
    };
    let text = cause.map_or_else(|| error.to_string(), ToString::to_string);
    let file = version.and_then(|version| migrations.iter().find(|migration| migration.version == version));
    let message = match file {
        Some(file) => format!("{:04}_{}.sql: {text}", file.version, file.description.replace(' ', "_")),
        None => text,
    };
    MigrationError { retryable: cause.is_some_and(is_unavailable), message }
}

fn write_termination_message(message: &str) {
    // The file exists only in a container. A failed write is ignored: the log has the message too.
    if let Ok(mut file) = OpenOptions::new().write(true).truncate(true).open(TERMINATION_LOG) {
        let _ = file.write_all(message.as_bytes());
    }
}

//! Readiness, checked in the background on its own connection, so that load on the pool does not affect it.

use std::{sync::Arc, time::Duration};

use runtime::Lifecycle;
use sqlx::{ConnectOptions, PgConnection, migrate::Migrator, postgres::PgConnectOptions};
use tokio::{select, sync::watch, time};

use super::migrations;

/// The time between two checks while the service is ready.
const INTERVAL: Duration = Duration::from_secs(1);
/// The time between two checks while the service is not ready, so that it recovers quickly.
const INTERVAL_NOT_READY: Duration = Duration::from_millis(200);
/// How long a check may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Whether this process can serve requests.
#[derive(Clone)]
pub(crate) struct Health {
    lifecycle: Lifecycle,
    database: watch::Receiver<Result<(), Unready>>,
}

impl Health {
    /// Starts the background check, on its own connection.
    pub(crate) fn watch(lifecycle: Lifecycle, options: PgConnectOptions, migrations: &'static Migrator) -> Self {
        let (sender, database) = watch::channel(Err(Unready::NotReached));
        tokio::spawn(async move {
            let mut connection = None;
            while !sender.is_closed() {
                let result = time::timeout(TIMEOUT, check(&mut connection, &options, migrations)).await;
                let result = result.unwrap_or_else(|_| Err((Unready::Unreachable, "the check timed out".to_owned())));
                if result.is_err() {
                    connection = None;
                }
                report(&sender, result);
                time::sleep(if sender.borrow().is_ok() { INTERVAL } else { INTERVAL_NOT_READY }).await;
            }
        });
        Self { lifecycle, database }
    }

    /// Waits until the readiness may have changed.
    pub(crate) async fn changed(&mut self) {
        select! {
            () = self.lifecycle.changed() => {}
            changed = self.database.changed() => if changed.is_err() {
                // The check only ends with the process.
                std::future::pending::<()>().await;
            },
        }
    }

    /// Returns `Ok` if the service is ready, else the reason.
    pub(crate) fn ready(&self) -> Result<(), Arc<str>> {
        self.lifecycle.is_serving()?;
        self.database.borrow().clone().map_err(|unready| unready.to_string().into())
    }
}

/// Why the database cannot be used. The probe shows only this; the cause is logged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Unready {
    #[error("the database has not been reached yet")]
    NotReached,
    #[error("the database does not respond")]
    Unreachable,
    #[error("the database's schema is older than this version needs: run `migrate`")]
    Outdated,
}

/// Publishes a change of state and logs it with its cause.
fn report(sender: &watch::Sender<Result<(), Unready>>, result: Result<(), (Unready, String)>) {
    sender.send_if_modified(|state| {
        if state.as_ref().err() == result.as_ref().err().map(|(unready, _)| unready) {
            return false;
        }
        match &result {
            Ok(()) => tracing::info!("ready"),
            Err((reason, cause)) => tracing::warn!(%reason, cause, "not ready"),
        }
        *state = result.map_err(|(unready, _)| unready);
        true
    });
}

async fn check(
    connection: &mut Option<PgConnection>,
    options: &PgConnectOptions,
    migrations: &Migrator,
) -> Result<(), (Unready, String)> {
    let unusable = |error: sqlx::Error| (Unready::Unreachable, error.to_string());
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(options.connect().await.map_err(unusable)?),
    };
    let needed = migrations::latest_version(migrations);
    let found = migrations::schema_version(connection).await.map_err(unusable)?;
    if found < needed {
        return Err((Unready::Outdated, format!("the schema is at version {found}, but version {needed} is required")));
    }
    Ok(())
}

//! Keeps services and Postgres running until shutdown is requested.

use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, bail};
use embedded_postgres::Server;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::health;
use crate::program::{Process, Program};
use crate::service::reachable;
use crate::shutdown::Shutdown;

/// How long a service may take to become ready when it is first started.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// The delay before the first restart of a service; it doubles with each restart up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(200);

/// The longest delay before a restart.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// A service that has run for this long is considered stable: its backoff is reset.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// How often Postgres is checked.
const POSTGRES_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Starts a service and waits until it is ready.
pub async fn start(program: &Program) -> anyhow::Result<Process> {
    let name = program.name();
    let mut process = program.serve().with_context(|| format!("cannot run {name}"))?;
    let deadline = Instant::now() + READY_TIMEOUT;
    let admin = reachable(program.service.admin);
    loop {
        let reason = match health::ready(admin).await {
            Ok(()) => return Ok(process),
            Err(reason) => reason,
        };
        if Instant::now() > deadline {
            bail!("{name} is not ready after {} s: {reason}", READY_TIMEOUT.as_secs());
        }
        tokio::select! {
            status = process.wait() => bail!("{name} exited before it was ready ({})", status?),
            () = sleep(Duration::from_millis(20)) => {}
        }
    }
}

/// Restarts a service whenever it exits.
pub async fn keep_service(program: Program, mut process: Process, mut shutdown: Shutdown) {
    let name = program.name();
    let mut backoff = MIN_BACKOFF;
    loop {
        let started = Instant::now();
        let reason = tokio::select! {
            status = process.wait() => status.map_or_else(|error| error.to_string(), |status| status.to_string()),
            () = shutdown.requested() => {
                if let Err(error) = process.terminate().await {
                    eprintln!("hedgerow: cannot stop {name}: {error}");
                }
                return;
            }
        };
        if started.elapsed() > STABLE_AFTER {
            backoff = MIN_BACKOFF;
        }
        eprintln!("hedgerow: {name} exited ({reason}); restarting it in {} ms", backoff.as_millis());
        process = loop {
            tokio::select! {
                () = sleep(backoff) => {}
                () = shutdown.requested() => return,
            }
            backoff = (backoff * 2).min(MAX_BACKOFF);
            match program.serve() {
                Ok(process) => break process,
                Err(error) => eprintln!("hedgerow: cannot run {name}: {error}"),
            }
        };
    }
}

/// Waits for a start of Postgres, which is not interrupted by the first request to shut down.
pub async fn start_of_postgres<T>(start: impl Future<Output = T>, shutdown: &mut Shutdown) -> T {
    let mut start = pin!(start);
    tokio::select! {
        started = &mut start => return started,
        () = shutdown.requested() => {}
    }
    eprintln!("hedgerow: stopping once Postgres has started; Ctrl-C again stops at once");
    start.await
}

/// Restarts Postgres whenever it exits. Returns it on shutdown.
pub async fn keep_postgres(mut server: Server, mut shutdown: Shutdown) -> anyhow::Result<Server> {
    loop {
        tokio::select! {
            () = sleep(POSTGRES_CHECK_INTERVAL) => {}
            () = shutdown.requested() => return Ok(server),
        }
        if !server.is_running() {
            eprintln!("hedgerow: Postgres exited; restarting it");
            let start = spawn_blocking(|| {
                let started = server.start_again();
                (server, started)
            });
            let (same, started) = start_of_postgres(start, &mut shutdown).await?;
            server = same;
            if let Err(error) = started {
                eprintln!("hedgerow: {:#}", anyhow::Error::from(error));
            }
        }
    }
}

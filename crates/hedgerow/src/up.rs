//! `hedgerow up`: starts Postgres and all services, keeps them running, and stops them in reverse order.

use std::io::{Write, stdout};
use std::process::{ExitCode, exit};
use std::time::Duration;

use embedded_postgres::{Server, Settings};
use tokio::task::{JoinSet, spawn_blocking};

use crate::cli::Up;
use crate::environment::{SHUTDOWN_TIMEOUT, missing_callees};
use crate::program::{GRACE_PERIOD, Process, Program};
use crate::progress::step;
use crate::service::Service;
use crate::shutdown::Shutdown;
use crate::{banner, data_folder, databases, ports, supervise};

/// The exit status of a program that was ended by Ctrl-C.
const INTERRUPTED: i32 = 130;

/// Runs until shutdown is requested. Fails if a service does not start.
pub async fn run(up: Up) -> anyhow::Result<ExitCode> {
    let mut shutdown = Shutdown::on_signals()?;
    let services = up.services;
    let programs =
        services.iter().map(|service| Program::find(service.clone(), &services)).collect::<Result<Vec<_>, _>>()?;
    warn_of_missing_callees(&services);
    let data = data_folder::open(&up.data_dir)?;
    // The services of a killed predecessor may still be finishing their last requests.
    let timeout = if data.was_abandoned() { SHUTDOWN_TIMEOUT + GRACE_PERIOD } else { Duration::ZERO };
    tokio::select! {
        free = step("waiting for the services of the previous run to exit", ports::check(&services, timeout)) => free?,
        () = shutdown.requested() => return Ok(ExitCode::SUCCESS),
    }
    let settings = settings(&services);
    let start = spawn_blocking(move || Server::start(data, &settings));
    let server = tokio::select! {
        started = step("starting Postgres", start) => started??,
        // Its processes exit by themselves: they have a parent-death signal.
        () = shutdown.forced() => exit(INTERRUPTED),
    };

    let running = tokio::select! {
        running = start_all(&server, programs) => running.map(Some),
        () = shutdown.requested() => Ok(None),
    };
    let (server, result) = match running {
        Ok(Some(running)) => {
            // Services run on if standard output is closed.
            let _ = stdout().write_all(banner::text(&services, &server).as_bytes());
            (keep_running(server, running, &shutdown).await?, Ok(ExitCode::SUCCESS))
        }
        Ok(None) => (server, Ok(ExitCode::SUCCESS)),
        Err(error) => (server, Err(error)),
    };
    tokio::select! {
        stopped = step("stopping Postgres", spawn_blocking(|| drop(server))) => stopped?,
        () = shutdown.forced() => exit(INTERRUPTED),
    }
    result
}

fn warn_of_missing_callees(services: &[Service]) {
    for service in services {
        for callee in missing_callees(service, services) {
            let name = service.name();
            eprintln!(
                "hedgerow: {name} calls {callee}, which is missing or does not serve gRPC: these calls will fail"
            );
        }
    }
}

/// Enough connections for all services, their migrations, and a few users of `psql`.
fn settings(services: &[Service]) -> Settings {
    let databases = services.iter().filter_map(|service| service.manifest.spec.database.as_ref());
    let connections = 20 + databases.map(|database| database.pool_size + 3).sum::<i32>();
    let defaults = Settings::default();
    let max_connections = u16::try_from(connections).unwrap_or(u16::MAX).max(defaults.max_connections);
    Settings { max_connections, ..defaults }
}

/// Prepares all databases and schemas, then starts the services. Dropping the future kills what it has started.
async fn start_all(server: &Server, programs: Vec<Program>) -> anyhow::Result<Vec<(Program, Process)>> {
    let mut prepared = Vec::new();
    for program in programs {
        prepared.push(match program.service.database() {
            Some(database) => {
                let prepare = databases::prepare(server, database);
                let url = step(&format!("creating database {database}"), prepare).await?;
                let program = program.with_database(url);
                step(&format!("migrating {}", program.name()), program.migrate()).await?;
                program
            }
            None => program,
        });
    }
    let mut running = Vec::new();
    for program in prepared {
        let process = step(&format!("starting {}", program.name()), supervise::start(&program)).await?;
        running.push((program, process));
    }
    Ok(running)
}

/// Keeps everything running until shutdown; the services exit before Postgres does.
async fn keep_running(server: Server, running: Vec<(Program, Process)>, shutdown: &Shutdown) -> anyhow::Result<Server> {
    let mut services = JoinSet::new();
    for (program, process) in running {
        services.spawn(supervise::keep_service(program, process, shutdown.clone()));
    }
    let server = supervise::keep_postgres(server, shutdown.clone()).await?;
    services.join_all().await;
    Ok(server)
}

//! `hedgerow up`: from nothing to every service ready, and in the reverse order back.

use std::io::{Write, stdout};
use std::process::{ExitCode, exit};
use std::time::Duration;

use embedded_postgres::{Server, Settings};
use tokio::process::Child;
use tokio::task::{JoinSet, spawn_blocking};

use crate::cli::Up;
use crate::program::{GRACE, Program, SHUTDOWN_TIMEOUT};
use crate::stop::Stop;
use crate::{banner, databases, folder, ports, supervise};

/// The exit status of a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Runs until it is told to stop; fails when not all comes up.
pub async fn run(up: Up) -> anyhow::Result<ExitCode> {
    let mut stop = Stop::on_signals()?;
    let services = up.services.0;
    let programs =
        services.iter().map(|service| Program::find(service.clone(), &services)).collect::<Result<Vec<_>, _>>()?;
    let data = folder::open(&up.data_dir)?;
    // The services of a killed predecessor may still be at their last requests.
    let patience = if data.was_abandoned() { SHUTDOWN_TIMEOUT + GRACE } else { Duration::ZERO };
    tokio::select! {
        free = ports::check(&services, patience) => free?,
        () = stop.asked() => return Ok(ExitCode::SUCCESS),
    }
    let server = tokio::select! {
        started = spawn_blocking(|| Server::start(data, &Settings::default())) => started??,
        // Its processes are tethered: they end by themselves.
        () = stop.urged() => exit(INTERRUPTED),
    };

    let running = tokio::select! {
        running = bring_up(&server, programs) => running.map(Some),
        () = stop.asked() => Ok(None),
    };
    let (server, ended) = match running {
        Ok(Some(running)) => {
            // Who has closed our output does not want to read it.
            let _ = stdout().write_all(banner::text(&services, &server).as_bytes());
            (keep_up(server, running, &stop).await?, Ok(ExitCode::SUCCESS))
        }
        Ok(None) => (server, Ok(ExitCode::SUCCESS)),
        Err(error) => (server, Err(error)),
    };
    tokio::select! {
        stopped = spawn_blocking(|| drop(server)) => stopped?,
        () = stop.urged() => exit(INTERRUPTED),
    }
    ended
}

/// Databases, then schemas, then services. Dropped midway, it kills what it has started.
async fn bring_up(server: &Server, programs: Vec<Program>) -> anyhow::Result<Vec<(Program, Child)>> {
    let mut prepared = Vec::new();
    for program in programs {
        prepared.push(if program.service.row.is_gateway() {
            program
        } else {
            let url = databases::prepare(server, program.name()).await?;
            let program = program.with_database(url);
            program.migrate().await?;
            program
        });
    }
    let mut running = Vec::new();
    for program in prepared {
        let child = supervise::start(&program).await?;
        running.push((program, child));
    }
    Ok(running)
}

/// Until the end; the services end before Postgres does.
async fn keep_up(server: Server, running: Vec<(Program, Child)>, stop: &Stop) -> anyhow::Result<Server> {
    let mut services = JoinSet::new();
    for (program, child) in running {
        services.spawn(supervise::keep_service(program, child, stop.clone()));
    }
    let server = supervise::keep_postgres(server, stop.clone()).await?;
    services.join_all().await;
    Ok(server)
}

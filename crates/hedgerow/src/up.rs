//! `hedgerow up`: starts Postgres and all services, keeps them running, and stops them in reverse order.

use std::io::{Write, stdout};
use std::process::ExitCode;

use embedded_postgres::{Server, Settings};
use tokio::task::{JoinSet, spawn_blocking};

use crate::authentication::Authentication;
use crate::authority::{Authority, Publisher};
use crate::cli::Up;
use crate::environment::{inherited, missing_callees};
use crate::program::{Process, Program};
use crate::progress::step;
use crate::service::Service;
use crate::shutdown::Shutdown;
use crate::{banner, data_folder, databases, exposure, orphans, ports, supervise};

/// The exit status after flags and variables that cannot be used together.
const USAGE: u8 = 2;

/// Runs until shutdown is requested. Fails if a service does not start.
pub async fn run(up: Up) -> anyhow::Result<ExitCode> {
    if let Some(problem) = exposure::problem(&up) {
        eprintln!("hedgerow: {problem}");
        return Ok(ExitCode::from(USAGE));
    }
    let mut shutdown = Shutdown::on_signals()?;
    let services = up.services;
    let data = data_folder::open(&up.data_dir)?;
    shutdown.kills(data.path().to_owned());
    let plan = || Authentication::new(data.path(), &services, inherited);
    let authentication = up.auth.then(plan).transpose()?;
    let find = |service: &Service| Program::find(service.clone(), &services, &data, authentication.as_ref());
    let programs = services.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    warn_of_missing_callees(&services);
    tokio::select! {
        ended = step("ending the services of the previous run", orphans::end(data.path())) => ended?,
        () = shutdown.requested() => return Ok(ExitCode::SUCCESS),
    }
    ports::check(&services)?;
    let publisher = authentication.map(|authentication| {
        let authority = Authority::open_or_create(&data)?;
        Publisher::start(authority, authentication, &services, up.token_lifetime, inherited)
    });
    let _renewing = publisher.transpose()?.map(Publisher::keep_current);
    let settings = settings(&services);
    let start = step("starting Postgres", spawn_blocking(move || Server::start(data, &settings)));
    let server = supervise::start_of_postgres(start, &mut shutdown).await??;

    let running = tokio::select! {
        running = start_all(&server, programs) => running.map(Some),
        () = shutdown.requested() => Ok(None),
    };
    let (server, result) = match running {
        Ok(Some(running)) => {
            // Services run on if standard output is closed.
            let _ = stdout().write_all(banner::text(&services, &server, up.auth).as_bytes());
            (keep_running(server, running, &shutdown).await?, Ok(ExitCode::SUCCESS))
        }
        Ok(None) => (server, Ok(ExitCode::SUCCESS)),
        Err(error) => (server, Err(error)),
    };
    step("stopping Postgres", spawn_blocking(|| drop(server))).await?;
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
    let progress = |line: &str| eprintln!("hedgerow: Postgres is starting: {line}");
    Settings { max_connections, progress, ..defaults }
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

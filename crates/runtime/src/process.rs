//! The life of every process that serves requests: its command line's common part, start, signals, drain, stop.

use std::{
    net::SocketAddr,
    process::{ExitCode, exit},
    time::Duration,
};

use clap::Args;
use prometheus::Registry;
use tokio::{
    net::TcpListener,
    select,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::{self, Instant},
};
use tokio_util::task::TaskTracker;

use crate::{
    admin::{self, Checks},
    lifecycle::{Lifecycle, Phase},
    listener::bind,
    server::{App, Server, Workers},
    telemetry,
};

/// The exit status for wrong arguments or configuration, as clap has it.
const USAGE: u8 = 2;

/// The exit status of a program that a second signal ended: a shell's for Ctrl-C.
const CUT_OFF: i32 = 130;

/// How a process runs, whatever it does.
#[derive(Debug, Clone, Args)]
pub struct ProcessArgs {
    /// Where requests are served
    #[arg(long, env, global = true, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    pub http_addr: SocketAddr,
    /// Where /livez, /readyz and /metrics are served
    #[arg(long, env, global = true, value_name = "ADDRESS", default_value = "0.0.0.0:9090")]
    pub admin_addr: SocketAddr,
    /// After SIGTERM, how long to go on serving while the cluster takes notice
    #[arg(long, env, global = true, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    pub drain_delay: Duration,
    /// After that, how long requests in flight may take to end
    #[arg(long, env, global = true, value_name = "TIME", default_value = "25s", value_parser = humantime::parse_duration)]
    pub shutdown_timeout: Duration,
    /// What to log: a level (error, warn, info, debug, trace), or filters such as `info,sqlx=debug`
    #[arg(long, env, global = true, value_name = "FILTER", default_value = "info")]
    pub log_level: String,
    /// Where traces go, by OTLP over HTTP, such as `http://collector:4318`; left out: no traces
    #[arg(long, env, global = true, value_name = "URL")]
    pub otel_exporter_otlp_endpoint: Option<String>,
}

/// Says in one line what is wrong with the arguments or the environment.
#[must_use]
pub fn usage(name: &str, message: &str) -> ExitCode {
    eprintln!("{name}: {message}");
    ExitCode::from(USAGE)
}

/// Answers what clap made of a command line instead of a command: a mistake in it, or a wish for help.
#[must_use]
pub fn no_command(name: &str, error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        // The first line says it all.
        let text = error.to_string();
        return usage(name, text.lines().next().unwrap_or_default().trim_start_matches("error: "));
    }
    print!("{error}");
    ExitCode::SUCCESS
}

/// Runs what a process does, inside a runtime, with logs and traces; it returns how the process ends and how long the
/// last traces may take.
pub fn run<F: Future<Output = (ExitCode, Duration)>>(
    name: &'static str,
    log_level: &str,
    otel_exporter_otlp_endpoint: Option<&str>,
    work: impl FnOnce() -> F,
) -> ExitCode {
    // Before the runtime: the exporter's blocking client must not be made inside it.
    let telemetry = match telemetry::start(name, log_level, otel_exporter_otlp_endpoint) {
        Ok(telemetry) => telemetry,
        Err(error) => return usage(name, &format!("{error:#}")),
    };
    // Of one thread; what is worth more of them has its own (`Workers`).
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return usage(name, &format!("cannot start: {error}")),
    };
    let (status, left) = runtime.block_on(async { work().await });
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    telemetry.finish(left);
    status
}

/// Serves until a signal ends it; for [`run`].
pub async fn serve<F: Future<Output = anyhow::Result<Running>>>(
    name: &'static str,
    start: impl FnOnce() -> F,
) -> (ExitCode, Duration) {
    match until_told(name, start).await {
        Ok(left) => (ExitCode::SUCCESS, left),
        Err(error) => {
            tracing::error!("{error:#}");
            (ExitCode::FAILURE, Duration::MAX)
        }
    }
}

/// Returns what is left of the time that the end may take.
async fn until_told<F: Future<Output = anyhow::Result<Running>>>(
    name: &'static str,
    start: impl FnOnce() -> F,
) -> anyhow::Result<Duration> {
    // Before anything is started: a signal that comes meanwhile counts.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let running = start().await?;
    let grpc = running.grpc.map(tracing::field::display);
    tracing::info!(service = name, http = %running.http, grpc, admin = %running.admin, "listening");
    told(&mut terminate, &mut interrupt).await;
    select! {
        left = running.stop() => Ok(left),
        () = told(&mut terminate, &mut interrupt) => {
            tracing::warn!("told again to stop: requests in flight are cut off");
            exit(CUT_OFF)
        }
    }
}

async fn told(terminate: &mut Signal, interrupt: &mut Signal) {
    select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// A process whose listeners are bound, and that serves nothing yet.
pub struct Bound {
    http: TcpListener,
    admin: TcpListener,
    running: Running,
    lifecycle: Lifecycle,
}

/// A process that is serving.
pub struct Running {
    /// Where it serves requests.
    pub http: SocketAddr,
    /// Where it serves gRPC, if it does on a port of its own.
    pub grpc: Option<SocketAddr>,
    /// Where it serves probes and metrics.
    pub admin: SocketAddr,
    drain_delay: Duration,
    shutdown_timeout: Duration,
    phases: watch::Sender<Phase>,
    servers: TaskTracker,
    /// Tasks run there that outlive the server's connections: what came of an upgraded one.
    workers: Workers,
}

impl Bound {
    /// Binds the listeners for requests and for probes.
    /// # Errors
    /// Where an address cannot be bound.
    pub fn new(args: &ProcessArgs) -> anyhow::Result<Self> {
        let (http, admin) = (bind(args.http_addr)?, bind(args.admin_addr)?);
        let (phases, lifecycle) = Lifecycle::new();
        let running = Running {
            http: http.local_addr()?,
            grpc: None,
            admin: admin.local_addr()?,
            drain_delay: args.drain_delay,
            shutdown_timeout: args.shutdown_timeout,
            phases,
            servers: TaskTracker::new(),
            workers: Workers::default(),
        };
        Ok(Self { http, admin, running, lifecycle })
    }

    /// The process's lifecycle, to look at.
    #[must_use]
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    /// What the process waits for when it stops, besides its connections.
    #[must_use]
    pub fn tasks(&self) -> &TaskTracker {
        &self.running.servers
    }

    /// Serves gRPC on a listener of its own.
    /// # Errors
    /// Returns an error if the address of the listener cannot be read.
    pub fn serve_grpc(&mut self, listener: TcpListener, server: Server, app: impl App) -> anyhow::Result<()> {
        self.running.grpc = Some(listener.local_addr()?);
        self.running.servers.spawn(server.serve(listener, app, self.lifecycle.clone()));
        Ok(())
    }

    /// Serves requests, probes and metrics.
    pub fn start(self, server: Server, app: impl App, checks: Checks, registry: Registry) -> Running {
        let Self { http, admin, mut running, lifecycle } = self;
        running.workers = server.workers.clone();
        running.servers.spawn(server.serve(http, app, lifecycle));
        running.servers.close();
        // The admin port answers until the process ends, or a draining pod would look dead.
        let probes = admin::routes(checks, registry);
        tokio::spawn(Server::default().serve(admin, probes, Lifecycle::endless()));
        running
    }
}

impl Running {
    /// Drains, then stops: every request whose bytes have arrived is answered, within the time the arguments give.
    /// Returns what is left of it.
    pub async fn stop(self) -> Duration {
        tracing::info!(delay = ?self.drain_delay, "draining");
        self.phases.send_replace(Phase::Draining);
        time::sleep(self.drain_delay).await;
        self.phases.send_replace(Phase::Stopping);
        let timeout = self.shutdown_timeout;
        let begun = Instant::now();
        if time::timeout(timeout, self.servers.wait()).await.is_ok() {
            tracing::info!("stopped");
        } else {
            tracing::warn!(?timeout, "stopped with requests still in flight");
        }
        drop(self.workers);
        timeout.saturating_sub(begun.elapsed())
    }
}

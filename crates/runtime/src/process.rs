//! The lifecycle of a process that serves requests: common flags, start, signals, drain and stop.

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

/// The exit status for invalid arguments or configuration, the same as clap's.
const USAGE: u8 = 2;

/// The exit status after a second signal: what a shell reports for Ctrl-C.
const INTERRUPTED: i32 = 130;

/// The default of `DRAIN_DELAY`: how long to keep serving after SIGTERM.
pub const DEFAULT_DRAIN_DELAY: &str = "5s";

/// The default of `SHUTDOWN_TIMEOUT`: how long requests in flight may take after that.
pub const DEFAULT_SHUTDOWN_TIMEOUT: &str = "25s";

/// The flags of every process.
#[derive(Debug, Clone, Args)]
pub struct ProcessArgs {
    /// Address to serve requests on
    #[arg(long, env, global = true, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    pub http_addr: SocketAddr,
    /// Address to serve /livez, /readyz and /metrics on
    #[arg(long, env, global = true, value_name = "ADDRESS", default_value = "0.0.0.0:9090")]
    pub admin_addr: SocketAddr,
    /// How long to keep serving after SIGTERM, so that the cluster can stop sending requests
    #[arg(long, env, global = true, value_name = "TIME", default_value = DEFAULT_DRAIN_DELAY, value_parser = humantime::parse_duration)]
    pub drain_delay: Duration,
    /// How long requests in flight may take to finish after the drain delay
    #[arg(long, env, global = true, value_name = "TIME", default_value = DEFAULT_SHUTDOWN_TIMEOUT, value_parser = humantime::parse_duration)]
    pub shutdown_timeout: Duration,
    /// Log level (error, warn, info, debug, trace), or filters such as `info,sqlx=debug`
    #[arg(long, env, global = true, value_name = "FILTER", default_value = "info")]
    pub log_level: String,
    /// OTLP/HTTP endpoint for traces, such as `http://collector:4318`; if unset, no traces are exported
    #[arg(long, env, global = true, value_name = "URL")]
    pub otel_exporter_otlp_endpoint: Option<String>,
}

/// Prints one line that says what is wrong with the arguments or the environment, and returns the exit status for it.
#[must_use]
pub fn usage(name: &str, message: &str) -> ExitCode {
    eprintln!("{name}: {message}");
    ExitCode::from(USAGE)
}

/// Prints what clap returns instead of a command (a usage error, the help or the version) and returns the exit status.
#[must_use]
pub fn no_command(name: &str, error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        // The first line is enough.
        let text = error.to_string();
        return usage(name, text.lines().next().unwrap_or_default().trim_start_matches("error: "));
    }
    print!("{error}");
    ExitCode::SUCCESS
}

/// Starts logs and traces, then runs the work in a Tokio runtime. The work returns the exit status of the process and
/// how long the export of the last traces may take.
pub fn run<F: Future<Output = (ExitCode, Duration)>>(
    name: &'static str,
    log_level: &str,
    otel_exporter_otlp_endpoint: Option<&str>,
    work: impl FnOnce() -> F,
) -> ExitCode {
    // The exporter's blocking client must not be created inside a runtime.
    let telemetry = match telemetry::start(name, log_level, otel_exporter_otlp_endpoint) {
        Ok(telemetry) => telemetry,
        Err(error) => return usage(name, &format!("{error:#}")),
    };
    // One thread is enough here. Requests are served on the threads of `Workers`.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return usage(name, &format!("cannot start: {error}")),
    };
    let (status, left) = runtime.block_on(async { work().await });
    // Do not wait for DNS lookups in progress.
    runtime.shutdown_background();
    telemetry.finish(left);
    status
}

/// The work of a server, for [`run`]: starts it, and serves until SIGTERM or SIGINT.
pub async fn serve<F: Future<Output = anyhow::Result<Running>>>(
    name: &'static str,
    start: impl FnOnce() -> F,
) -> (ExitCode, Duration) {
    match serve_until_signal(name, start).await {
        Ok(left) => (ExitCode::SUCCESS, left),
        Err(error) => {
            tracing::error!("{error:#}");
            (ExitCode::FAILURE, Duration::MAX)
        }
    }
}

/// Returns what is left of the shutdown timeout.
async fn serve_until_signal<F: Future<Output = anyhow::Result<Running>>>(
    name: &'static str,
    start: impl FnOnce() -> F,
) -> anyhow::Result<Duration> {
    // Installed first, so that a signal during the start is not lost.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let running = start().await?;
    let grpc = running.grpc.map(tracing::field::display);
    tracing::info!(service = name, http = %running.http, grpc, admin = %running.admin, "listening");
    signalled(&mut terminate, &mut interrupt).await;
    select! {
        left = running.stop() => Ok(left),
        () = signalled(&mut terminate, &mut interrupt) => {
            tracing::warn!("second signal received, aborting requests in flight");
            exit(INTERRUPTED)
        }
    }
}

async fn signalled(terminate: &mut Signal, interrupt: &mut Signal) {
    select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// A process whose listeners are bound but that does not serve yet.
pub struct Bound {
    http: TcpListener,
    admin: TcpListener,
    running: Running,
    lifecycle: Lifecycle,
}

/// A process that is serving.
pub struct Running {
    /// The address that serves requests.
    pub http: SocketAddr,
    /// The address that serves gRPC, if there is a separate port for it.
    pub grpc: Option<SocketAddr>,
    /// The address that serves probes and metrics.
    pub admin: SocketAddr,
    drain_delay: Duration,
    shutdown_timeout: Duration,
    phases: watch::Sender<Phase>,
    servers: TaskTracker,
    /// Kept alive because tasks on these threads, such as upgraded connections, outlive the server.
    workers: Workers,
}

impl Bound {
    /// Binds the listeners for requests and for probes.
    ///
    /// # Errors
    /// Returns an error if an address cannot be bound.
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

    /// Returns the lifecycle of the process.
    #[must_use]
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    /// Returns the tracker for tasks that must finish before the process stops.
    #[must_use]
    pub fn tasks(&self) -> &TaskTracker {
        &self.running.servers
    }

    /// Serves gRPC on its own listener.
    ///
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
        // The admin port serves until the process exits, or a draining pod would look dead.
        let probes = admin::routes(checks, registry);
        tokio::spawn(Server::default().serve(admin, probes, Lifecycle::endless()));
        running
    }
}

impl Running {
    /// Drains, then stops. Every request that has arrived gets a response if it finishes within the shutdown timeout.
    /// Returns what is left of that timeout.
    pub async fn stop(self) -> Duration {
        tracing::info!(delay = ?self.drain_delay, "draining");
        self.phases.send_replace(Phase::Draining);
        time::sleep(self.drain_delay).await;
        self.phases.send_replace(Phase::Stopping);
        let timeout = self.shutdown_timeout;
        let started = Instant::now();
        if time::timeout(timeout, self.servers.wait()).await.is_ok() {
            tracing::info!("stopped");
        } else {
            tracing::warn!(?timeout, "stopped with requests still in flight");
        }
        drop(self.workers);
        timeout.saturating_sub(started.elapsed())
    }
}

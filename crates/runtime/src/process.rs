//! The lifecycle of a process that serves requests: common flags, start, signals, drain and stop.

use std::{
    io,
    net::SocketAddr,
    process::{ExitCode, exit},
    time::Duration,
};

use clap::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
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
        return usage(name, &one_line(&error.to_string()));
    }
    print!("{error}");
    ExitCode::SUCCESS
}

/// A message of clap without the usage, which `--help` shows.
fn one_line(text: &str) -> String {
    let is_message = |part: &&str| !part.starts_with("Usage:") && !part.starts_with("For more information");
    let parts = text.trim_start_matches("error: ").split("\n\n").take_while(is_message);
    let parts: Vec<String> = parts.map(|part| part.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    parts.join("; ")
}

/// Raises the limit of file descriptors as far as possible, starts logs and traces, then runs the work in a Tokio
/// runtime. The work returns the exit status of the process and how long the export of the last traces may take.
pub fn run<F: Future<Output = (ExitCode, Duration)>>(
    name: &'static str,
    log_level: &str,
    otel_exporter_otlp_endpoint: Option<&str>,
    work: impl FnOnce() -> F,
) -> ExitCode {
    raise_descriptor_limit();
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

/// Raises the soft limit of file descriptors to the hard one. The soft limit is often 1,024, for the sake of programs
/// that use `select`, and each connection takes a descriptor. If this fails, connections wait until there is one.
fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
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
    let mut signals = Signals::new()?;
    let running = start().await?;
    let grpc = running.grpc.map(tracing::field::display);
    tracing::info!(service = name, http = %running.http, grpc, admin = %running.admin, "listening");
    signals.recv().await;
    select! {
        left = running.stop() => Ok(left),
        () = signals.recv() => {
            tracing::warn!("second signal received, aborting requests in flight");
            exit(INTERRUPTED)
        }
    }
}

/// The signals that ask a process to stop: SIGTERM and SIGINT.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Installs the handlers. From now on, neither signal ends the process by itself.
    ///
    /// # Errors
    /// Returns an error if a handler cannot be installed.
    pub fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal.
    pub async fn recv(&mut self) {
        select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
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

#[cfg(test)]
mod tests {
    use clap::{Arg, Command, value_parser};

    use super::*;

    fn message(arguments: &[&str]) -> String {
        let command = Command::new("x").no_binary_name(true).args([
            Arg::new("file").long("file").value_name("FILE").required(true),
            Arg::new("count").long("count").value_name("N").value_parser(value_parser!(u8)),
        ]);
        one_line(&command.try_get_matches_from(arguments).expect_err("an error").to_string())
    }

    #[test]
    fn a_usage_error_is_one_line_with_all_that_is_wrong() {
        assert_eq!(message(&[]), "the following required arguments were not provided: --file <FILE>");
        assert_eq!(
            message(&["--file", "a", "--count", "b"]),
            "invalid value 'b' for '--count <N>': invalid digit found in string"
        );
        assert_eq!(
            message(&["--fil", "a"]),
            "unexpected argument '--fil' found; tip: a similar argument exists: '--file'"
        );
    }
}

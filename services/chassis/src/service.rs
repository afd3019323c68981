//! One bootstrap for every service: bind, serve, drain, stop.

use std::{
    net::SocketAddr,
    process::{ExitCode, exit},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use sqlx::migrate::Migrator;
use tokio::{
    net::{TcpListener, TcpSocket},
    select,
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::{self, Instant},
};
use tokio_util::task::TaskTracker;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    admin::{self, Checks},
    cli::{Cli, Command, ServeArgs},
    database::Database,
    grpc::{self, Channel, Grpc, Peers},
    health::Health,
    life::{Life, Phase},
    metrics::Metrics,
    migrate, observe, openapi,
    server::{self, Limits},
    telemetry,
};

/// The exit status for wrong arguments or configuration, as clap has it.
const USAGE: u8 = 2;

/// The exit status of a program that a second signal ended: a shell's for Ctrl-C.
const CUT_OFF: i32 = 130;

/// Connections that may wait to be accepted. With the usual 128 a burst of clients overflows it, and each of them that
/// does waits a second or more for its next try.
const BACKLOG: u32 = 1024;

/// A service: what is its own, besides the chassis. `S` is the state its handlers share.
pub struct Service<S> {
    /// Its name, as in traces and on the command line.
    pub name: &'static str,
    /// What it is for, in one line.
    pub about: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Its schema.
    pub migrations: &'static Migrator,
    /// Its routes and their documentation.
    pub api: fn() -> OpenApiRouter<S>,
    /// Its gRPC APIs, where it has any.
    pub grpc: Option<Grpc<S>>,
    /// The services it calls over gRPC, by name: each has a flag for where it is (`--NAME-grpc-url`).
    pub peers: &'static [&'static str],
    /// Makes what its handlers share; called once, inside the runtime.
    pub state: fn(&Context) -> S,
}

/// What the chassis lends to a service.
#[derive(Clone)]
pub struct Context {
    /// The service's database.
    pub database: Database,
    peers: Peers,
}

impl Context {
    /// The channel to a peer; `None` where nobody says where it is.
    #[must_use]
    pub fn peer(&self, name: &str) -> Option<Channel> {
        self.peers.channel(name)
    }
}

/// A service that is serving.
pub struct Running {
    /// Where it serves requests.
    pub http: SocketAddr,
    /// Where it serves gRPC, if it does.
    pub grpc: Option<SocketAddr>,
    /// Where it serves probes and metrics.
    pub admin: SocketAddr,
    args: ServeArgs,
    phases: watch::Sender<Phase>,
    servers: TaskTracker,
}

/// The whole of a service's `main`: reads the command line and does what it says.
#[must_use]
pub fn main<S: Clone + Send + Sync + 'static>(service: &Service<S>) -> ExitCode {
    let cli = match Cli::read(service) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            // The first line says it all.
            let text = error.to_string();
            return usage(service.name, text.lines().next().unwrap_or_default().trim_start_matches("error: "));
        }
        Err(help) => {
            print!("{help}");
            return ExitCode::SUCCESS;
        }
    };
    match cli.command.unwrap_or(Command::Serve) {
        Command::Openapi => {
            println!("{}", openapi::document(service).to_pretty_json().unwrap_or_default());
            ExitCode::SUCCESS
        }
        command => run(service, command, cli.serve),
    }
}

/// Says in one line what is wrong with the arguments or the environment.
fn usage(name: &str, message: &str) -> ExitCode {
    eprintln!("{name}: {message}");
    ExitCode::from(USAGE)
}

fn run<S: Clone + Send + Sync + 'static>(service: &Service<S>, command: Command, args: ServeArgs) -> ExitCode {
    let options = match args.database_options() {
        Ok(options) => options.application_name(service.name),
        Err(message) => return usage(service.name, message),
    };
    // Before the runtime: the exporter's blocking client must not be made inside it.
    let endpoint = args.otel_exporter_otlp_endpoint.as_deref();
    let telemetry = match telemetry::start(service.name, &args.log_level, endpoint) {
        Ok(telemetry) => telemetry,
        Err(error) => return usage(service.name, &format!("{error:#}")),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return usage(service.name, &format!("cannot start: {error}")),
    };
    let (status, left) = runtime.block_on(async {
        if matches!(command, Command::Migrate) {
            return (migrate::run(options, service.migrations).await, Duration::MAX);
        }
        match serve(service, args).await {
            Ok(left) => (ExitCode::SUCCESS, left),
            Err(error) => {
                tracing::error!("{error:#}");
                (ExitCode::FAILURE, Duration::MAX)
            }
        }
    });
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    telemetry.finish(left);
    status
}

/// Serves until a signal ends it; returns what is left of the time that the end may take.
async fn serve<S: Clone + Send + Sync + 'static>(service: &Service<S>, args: ServeArgs) -> anyhow::Result<Duration> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut told = async || {
        select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let running = service.start(args).await?;
    let grpc = running.grpc.map(tracing::field::display);
    tracing::info!(service = service.name, http = %running.http, grpc, admin = %running.admin, "listening");
    told().await;
    select! {
        left = running.stop() => Ok(left),
        () = told() => {
            tracing::warn!("told again to stop: requests in flight are cut off");
            exit(CUT_OFF)
        }
    }
}

impl<S: Clone + Send + Sync + 'static> Service<S> {
    /// Binds the listeners and serves; neither the database nor a peer need be there yet.
    ///
    /// # Errors
    /// Where an address cannot be bound or the database URL makes no sense.
    #[expect(clippy::unused_async, reason = "it spawns tasks: a caller that awaits is in a runtime")]
    pub async fn start(&self, args: ServeArgs) -> anyhow::Result<Running> {
        let options = args.database_options().map_err(anyhow::Error::msg)?.application_name(self.name);
        let listener = bind(args.http_addr)?;
        let grpc_listener = match &self.grpc {
            Some(grpc) => Some((grpc, bind(args.grpc_addr)?)),
            None => None,
        };
        let admin_listener = bind(args.admin_addr)?;

        let metrics = Metrics::new(self.version)?;
        let registry = metrics.registry();
        let database = Database::new(options.clone(), args.database_pool_size, &metrics)?;
        let peers = Peers::connect(self.peers, &args.peers, registry)?;
        let state = (self.state)(&Context { database, peers });
        let (routes, _) = (self.api)().with_state(state.clone()).split_for_parts();
        let routes = routes.merge(openapi::routes(openapi::document(self)));
        let app = observe::layer(routes, metrics.clone());

        let (phases, life) = Life::new();
        let health = Health::watch(life.clone(), options, self.migrations);
        let servers = TaskTracker::new();
        let mut running = Running {
            http: listener.local_addr()?,
            grpc: None,
            admin: admin_listener.local_addr()?,
            args,
            phases,
            servers,
        };
        if let Some((grpc, listener)) = grpc_listener {
            running.grpc = Some(listener.local_addr()?);
            let app = grpc::app(grpc, state, health.clone(), registry)?;
            running.servers.spawn(server::serve(listener, app, life.clone(), Limits::default()));
        }
        running.servers.spawn(server::serve(listener, app, life, Limits::default()));
        running.servers.close();
        // The admin port answers until the process ends, or a draining pod would look dead.
        let checks = Checks { live: Arc::new(|| Ok(())), ready: Arc::new(move || health.ready()) };
        let probes = admin::routes(checks, registry.clone());
        tokio::spawn(server::serve(admin_listener, probes, Life::endless(), Limits::default()));
        Ok(running)
    }
}

impl Running {
    /// Drains, then stops: every request whose bytes have arrived is answered, within the time the arguments give.
    /// Returns what is left of it.
    pub async fn stop(self) -> Duration {
        tracing::info!(delay = ?self.args.drain_delay, "draining");
        self.phases.send_replace(Phase::Draining);
        time::sleep(self.args.drain_delay).await;
        self.phases.send_replace(Phase::Stopping);
        let timeout = self.args.shutdown_timeout;
        let begun = Instant::now();
        if time::timeout(timeout, self.servers.wait()).await.is_ok() {
            tracing::info!("stopped");
        } else {
            tracing::warn!(?timeout, "stopped with requests still in flight");
        }
        timeout.saturating_sub(begun.elapsed())
    }
}

pub(crate) fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restart need not wait for connections of the process before it to be forgotten.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().with_context(|| format!("cannot listen on {address}"))
}

//! The definition of a service, and the bootstrap that turns it into a process.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use identity::Verifier;
use prometheus::Registry;
use runtime::{
    Checks, listener, metrics,
    process::{self, Bound, ProcessArgs, Running, usage},
    server::{Server, Workers},
};
use sqlx::migrate::Migrator;
use tokio::runtime::Handle;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    authenticate::Authenticator,
    cli::{Cli, Command, ServeArgs},
    database::{Database, Health, migrations},
    grpc::{self, Channel, Grpc, Peers},
    http::{metrics::Metrics, observe, openapi, query::KnownParameters},
    refusals::Refusals,
    unsent::Unsent,
};

/// The definition of a service. `S` is the state that its handlers share. `A` are the service's own settings, if it has
/// any: flags that mirror environment variables, all of them with `global = true`.
pub struct Service<S, A = ()> {
    /// The name, as in traces and on the command line.
    pub name: &'static str,
    /// The purpose of the service, in one line.
    pub about: &'static str,
    /// The version.
    pub version: &'static str,
    /// The migrations of its database.
    pub migrations: &'static Migrator,
    /// Builds the routes and their documentation.
    pub api: fn() -> OpenApiRouter<S>,
    /// The gRPC APIs, if there are any.
    pub grpc: Option<Grpc<S>>,
    /// The names of the services that it calls over gRPC. Each has a flag for its URL (`--NAME-grpc-url`).
    pub peers: &'static [&'static str],
    /// Creates the shared state. It is called once, in the runtime of the main thread, which serves no requests.
    pub state: fn(&Context<A>) -> S,
}

/// What the chassis provides to a service.
#[derive(Clone)]
pub struct Context<A = ()> {
    /// The service's database. Its pool is for the thread that serves requests; a task on another thread should
    /// [dedicate](Database::dedicate) a connection.
    pub database: Database,
    /// The thread that serves all requests. A task that every request waits for costs least there. A task that must run
    /// even while this thread is busy belongs on another one.
    pub requests: Handle,
    /// The service's own settings.
    pub settings: A,
    /// The metrics that the admin port shows, for those that only this service has.
    pub registry: Registry,
    peers: Peers,
}

impl<A> Context<A> {
    /// Returns the channel to a peer; `None` if no URL is configured for it.
    #[must_use]
    pub fn peer(&self, name: &str) -> Option<Channel> {
        self.peers.channel(name)
    }
}

/// The `main` of a service: parses the command line and runs the command.
#[must_use]
pub fn main<S: Clone + Send + Sync + 'static, A: Args>(service: &Service<S, A>) -> ExitCode {
    let &Service { name, about, version, peers, .. } = service;
    let command = clap::Command::new(name).about(about).version(version);
    let cli = match Cli::read(command, peers, service.grpc.is_some()) {
        Ok(cli) => cli,
        Err(error) => return process::no_command(service.name, &error),
    };
    match cli.command.unwrap_or(Command::Serve) {
        Command::Openapi => match service.print_document() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{}: cannot print the OpenAPI document: {error}", service.name);
                ExitCode::FAILURE
            }
        },
        command => run(service, command, cli.serve),
    }
}

fn run<S: Clone + Send + Sync + 'static, A: Args>(
    service: &Service<S, A>,
    command: Command,
    args: ServeArgs<A>,
) -> ExitCode {
    let options = match args.database_options() {
        Ok(options) => options.application_name(service.name),
        Err(message) => return usage(service.name, message),
    };
    let ProcessArgs { log_level, otel_exporter_otlp_endpoint, .. } = args.process.clone();
    process::run(service.name, &log_level, otel_exporter_otlp_endpoint.as_deref(), async || match command {
        Command::Migrate => (migrations::run(options, service.migrations).await, Duration::MAX),
        _ => process::serve(service.name, async || service.start(args).await).await,
    })
}

impl<S: Clone + Send + Sync + 'static, A: Args> Service<S, A> {
    /// Builds the OpenAPI document.
    fn document(&self) -> OpenApi {
        openapi::document((self.api)().into_openapi(), self.name, self.about, self.version)
    }

    /// Writes the OpenAPI document to stdout.
    fn print_document(&self) -> anyhow::Result<()> {
        let document = self.document().to_pretty_json()?;
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{document}")?;
        Ok(stdout.flush()?)
    }

    /// Binds the listeners and serves. Neither the database nor the peers have to be available yet.
    ///
    /// # Errors
    /// Returns an error if an address cannot be bound or the database URL is invalid.
    #[expect(clippy::unused_async, reason = "it spawns tasks: a caller that awaits is in a runtime")]
    pub async fn start(&self, args: ServeArgs<A>) -> anyhow::Result<Running> {
        let options = args.database_options().map_err(anyhow::Error::msg)?.application_name(self.name);
        let mut bound = Bound::new(&args.process)?;
        let grpc_listener = match &self.grpc {
            Some(grpc) => Some((grpc, listener::bind(args.grpc_addr)?)),
            None => None,
        };

        let registry = metrics::registry(self.version)?;
        let metrics = Metrics::new(&registry)?;
        let verifier = Verifier::new(&args.auth, &registry)?;
        let database = Database::new(options.clone(), args.database_pool_size, &registry)?;
        let workers = Workers::start(1)?;
        let requests = workers.first();
        // Replies of peers then wake the thread that serves requests.
        let peers = {
            let _on = requests.enter();
            Peers::connect(self.peers, &args.peers, args.auth_token_dir.as_deref(), &registry)?
        };
        let state =
            (self.state)(&Context { database, requests, settings: args.settings, registry: registry.clone(), peers });
        let (routes, _) = (self.api)().with_state(state.clone()).split_for_parts();
        let document = self.document();
        let parameters = KnownParameters::from_document(&document);
        let unsent = Unsent::default();
        let makes_calls = args.auth_token_dir.is_some() && !self.peers.is_empty();
        let authenticator = Authenticator::new(verifier, args.auth_allow_from, makes_calls, &document);
        let refusals = Refusals::new(&registry)?;
        let app = observe::layer(
            routes.merge(openapi::routes(document)),
            metrics,
            authenticator.clone(),
            refusals.clone(),
            parameters,
            unsent.clone(),
        );

        let health = Health::watch(bound.lifecycle().clone(), options, self.migrations);
        if let Some((grpc, listener)) = grpc_listener {
            let server = Server::default().on(workers.clone());
            bound.serve_grpc(
                listener,
                server,
                grpc::app(grpc, state, health.clone(), &registry, authenticator, refusals, unsent)?,
            )?;
        }
        let checks = Checks { live: Arc::new(|| Ok(())), ready: Arc::new(move || health.ready()) };
        Ok(bound.start(Server::default().on(workers), app, checks, registry))
    }
}

//! The gateway's command line and start-up. The flags of discovery and of the policies are in `discovery` and `policy`.

use std::{num::NonZeroUsize, process::ExitCode, sync::Arc, thread, time::Duration};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use runtime::{
    Checks,
    process::{self, Bound, ProcessArgs, Running},
    server::{Server, Workers},
    stdout::BlockingStdout,
};

use crate::{
    access_log::{AccessLog, Writer},
    auth::{Authenticator, AuthenticatorArgs},
    discovery::{self, DiscoveryArgs},
    metrics::Metrics,
    policy::{Policy, PolicyArgs},
    proxy::{Gateway, Limits, ProxyDeps, Timeouts},
};

const NAME: &str = "gateway";

/// API gateway: routes requests to services, and limits, retries and observes them
#[derive(Debug, Parser)]
#[command(name = NAME, version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve requests until SIGTERM or SIGINT (the default)
    Serve,
}

#[derive(Debug, Clone, clap::Args)]
struct ServeArgs {
    #[command(flatten)]
    process: ProcessArgs,
    #[command(flatten)]
    discovery: DiscoveryArgs,
    #[command(flatten)]
    proxy: ProxyArgs,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    auth: AuthenticatorArgs,
    /// Number of threads that serve connections [default: one per processor]
    #[arg(long, env, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// Whether to log every request
    #[arg(long, env, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    access_log: bool,
}

/// Limits on the requests that are passed on.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ProxyArgs {
    /// Timeout for connecting to an endpoint
    #[arg(long, env, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    pub(crate) connect_timeout: Duration,
    /// How long to wait for response headers once a request has been sent, and for a client to send more of its body.
    /// gRPC is exempt once a call has sent something. Keep it longer than the services' own request timeout (15 s)
    #[arg(long, env, value_name = "TIME", default_value = "20s", value_parser = humantime::parse_duration)]
    pub(crate) header_timeout: Duration,
    /// Timeout for a request as a whole, including retries and the response body. gRPC, server-sent events and
    /// WebSocket connections are exempt
    #[arg(long, env, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    pub(crate) total_timeout: Duration,
    /// Maximum number of concurrent requests; any more are refused with 503
    #[arg(long, env, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    max_in_flight: u32,
    /// Maximum number of concurrent requests of one client; any more are refused with 429. A client is an IPv4 address
    /// or an IPv6 /64. Behind proxies, set the number of trusted hops: otherwise each proxy is one client [default: a
    /// quarter of all]
    #[arg(long, env, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_in_flight_per_client: Option<u32>,
    /// Maximum number of connections of clients. One more closes the connection that has been idle longest, or is reset
    /// if none is idle. WebSocket connections count too, and may be three quarters of them; any more are refused with
    /// 503
    #[arg(long, env, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: u32,
    /// Maximum number of connections from one client; any more are reset. A client is an IPv4 address or an IPv6 /64,
    /// and an HTTP/2 connection counts as eight. A client may also have at most as many WebSocket connections, any more of
    /// which are refused with 429; behind trusted proxies only these count [default: a quarter of all]
    #[arg(long, env, value_name = "N", value_parser = clap::value_parser!(u32).range(8..))]
    max_connections_per_client: Option<u32>,
    /// Maximum size of a request body, in bytes. Services have limits of their own, and gRPC is exempt
    #[arg(long, env, value_name = "BYTES", default_value_t = 1024 * 1024)]
    body_limit: u64,
}

impl ProxyArgs {
    /// Limits the connections of a server. The peers of connections are not clients if there are trusted proxies.
    pub(crate) fn limit_connections(&self, server: Server, policy: &PolicyArgs) -> Server {
        let max = self.max_connections;
        let is_direct = policy.trusted_hops == 0;
        server.limit_connections(max, if is_direct { self.of_client() } else { u32::MAX }).shared(!is_direct)
    }

    /// How many connections a client may have.
    fn of_client(&self) -> u32 {
        self.max_connections_per_client.unwrap_or(self.max_connections.div_ceil(4).max(8))
    }

    pub(crate) fn limits(&self) -> Limits {
        let timeouts =
            Timeouts { connect: self.connect_timeout, header: self.header_timeout, total: self.total_timeout };
        Limits {
            timeouts,
            max_in_flight: self.max_in_flight,
            max_in_flight_per_client: self.max_in_flight_per_client.unwrap_or(self.max_in_flight.div_ceil(4)),
            // The rest of the connections is left for requests.
            max_tunnels: self.max_connections - self.max_connections / 4,
            max_tunnels_per_client: self.of_client(),
            body_limit: self.body_limit,
        }
    }
}

/// Runs the gateway.
#[must_use]
pub fn main() -> ExitCode {
    // Flags are accepted both before and after `serve`.
    let matches = Cli::command().mut_args(|flag| flag.global(true)).try_get_matches();
    let args = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(Cli { command: None | Some(Command::Serve), serve }) => serve,
        Err(error) => return process::no_command(NAME, &error),
    };
    let policy = match Policy::new(&args.policy) {
        Ok(policy) => policy,
        Err(error) => return process::usage(NAME, &format!("{error:#}")),
    };
    let ProcessArgs { log_level, otel_exporter_otlp_endpoint, .. } = args.process.clone();
    // Lives as long as the process, so that everything logged is written.
    let mut writer = None;
    process::run(NAME, &log_level, otel_exporter_otlp_endpoint.as_deref(), async || {
        process::serve(NAME, async || {
            let (running, log) = Box::pin(start(&args, policy)).await?;
            writer = log;
            Ok(running)
        })
        .await
    })
}

async fn start(args: &ServeArgs, policy: Policy) -> anyhow::Result<(Running, Option<Writer>)> {
    let bound = Bound::new(&args.process)?;
    let registry = runtime::metrics::registry(env!("CARGO_PKG_VERSION"))?;
    let metrics = Metrics::new(&registry)?;
    let authenticator = Arc::new(Authenticator::start(&args.auth, &registry)?);
    let discovery = discovery::start(&args.discovery, &registry).await?;

    let processors = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = args.workers.map_or_else(processors, NonZeroUsize::get);
    let (access_log, writer) = if args.access_log {
        let (log, writer) = AccessLog::start(threads, metrics.log_dropped.clone(), BlockingStdout)?;
        (Some(log), Some(writer))
    } else {
        (None, None)
    };
    let deps = ProxyDeps {
        limits: args.proxy.limits(),
        policy,
        authenticator,
        services: discovery.services.clone(),
        metrics,
        access_log,
        workers: threads,
        lifecycle: bound.lifecycle().clone(),
        tasks: bound.tasks().clone(),
    };
    let gateway = Gateway::start(deps);
    let (discovery, lifecycle) = (Arc::new(discovery), bound.lifecycle().clone());
    let checks = Checks {
        live: Arc::new({
            let discovery = discovery.clone();
            move || discovery.live()
        }),
        ready: Arc::new(move || lifecycle.is_serving().and_then(|()| discovery.ready())),
    };
    let server = Server::default().strict().on(Workers::start(threads)?);
    let server = args.proxy.limit_connections(server, &args.policy);
    Ok((bound.start(server, gateway, checks, registry), writer))
}

//! A service's command line; every flag mirrors an environment variable.

use std::{net::SocketAddr, str::FromStr};

use clap::{Arg, Args, FromArgMatches, Parser, Subcommand};
use runtime::process::ProcessArgs;
use sqlx::postgres::PgConnectOptions;

use crate::{database::DatabaseUrl, grpc::PeerUrl};

#[derive(Debug, Parser)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Command {
    /// Serve requests until SIGTERM or SIGINT (the default)
    Serve,
    /// Bring the database's schema up to date, and end: 0 done, 1 an SQL error, 75 the database cannot be reached
    Migrate,
    /// Print the OpenAPI document, and end
    Openapi,
}

/// How a service runs.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// What every process has
    #[command(flatten)]
    pub process: ProcessArgs,
    /// Where gRPC is served
    #[arg(long, env, global = true, value_name = "ADDRESS", default_value = "0.0.0.0:50051")]
    pub grpc_addr: SocketAddr,
    /// The service's own database: `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, TLS by `?sslmode=`
    #[arg(long, env, global = true, value_name = "URL", hide_env_values = true)]
    pub database_url: Option<DatabaseUrl>,
    /// Most database connections of this process, besides the one of the readiness check
    #[arg(long, env, global = true, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(3..=1000))]
    pub database_pool_size: u32,
    /// Where the peers are that the service calls; each has a flag of its own.
    #[arg(skip)]
    pub peers: Vec<(&'static str, PeerUrl)>,
}

impl ServeArgs {
    /// The database to connect to.
    pub(crate) fn database_options(&self) -> Result<PgConnectOptions, &'static str> {
        let url = self.database_url.as_ref().ok_or("DATABASE_URL (or --database-url) is missing")?;
        url.options()
    }
}

impl Cli {
    /// Parses the arguments and the environment of the process.
    ///
    /// # Errors
    /// Returns clap's error, which is also how `--help` and `--version` are returned.
    pub(crate) fn read(
        command: clap::Command,
        peers: &'static [&'static str],
        serves_grpc: bool,
    ) -> Result<Self, clap::Error> {
        let mut command = Self::augment_args(command).args(peers.iter().map(peer_flag));
        if !serves_grpc {
            command = command.mut_arg("grpc_addr", |flag| flag.hide(true));
        }
        let matches = command.try_get_matches()?;
        let mut cli = Self::from_arg_matches(&matches)?;
        let url = |peer: &&'static str| Some((*peer, matches.get_one::<PeerUrl>(&flag_name(peer))?.clone()));
        cli.serve.peers = peers.iter().filter_map(url).collect();
        Ok(cli)
    }
}

/// The flag for where a peer serves gRPC.
fn peer_flag(peer: &&'static str) -> Arg {
    let name = flag_name(peer);
    Arg::new(name.clone())
        .env(name.replace('-', "_").to_uppercase())
        .long(name)
        .global(true)
        .value_name("URL")
        .value_parser(PeerUrl::from_str)
        .help(format!("Where {peer} serves gRPC, such as `http://{peer}-headless:50051`; left out: it is away"))
}

fn flag_name(peer: &str) -> String {
    format!("{peer}-grpc-url")
}

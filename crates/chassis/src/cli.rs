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
    /// Apply pending migrations and exit: 0 on success, 1 on an SQL error, 75 if the database is unreachable
    Migrate,
    /// Print the OpenAPI document and exit
    Openapi,
}

/// The flags of a service.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// The flags of every process
    #[command(flatten)]
    pub process: ProcessArgs,
    /// Address to serve gRPC on
    #[arg(long, env, global = true, value_name = "ADDRESS", default_value = "0.0.0.0:50051")]
    pub grpc_addr: SocketAddr,
    /// URL of the service's own database: `postgres://USER:PASSWORD@HOST:PORT/DATABASE`; for TLS add `?sslmode=`
    #[arg(long, env, global = true, value_name = "URL", hide_env_values = true)]
    pub database_url: Option<DatabaseUrl>,
    /// Maximum number of database connections, not counting the one of the readiness check
    #[arg(long, env, global = true, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(3..=1000))]
    pub database_pool_size: u32,
    /// The URLs of the peers that the service calls; each peer has its own flag.
    #[arg(skip)]
    pub peers: Vec<(&'static str, PeerUrl)>,
}

impl ServeArgs {
    /// Parses the database URL.
    pub(crate) fn database_options(&self) -> Result<PgConnectOptions, &'static str> {
        let url = self.database_url.as_ref().ok_or("DATABASE_URL is not set; set it or pass --database-url")?;
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
        // The doc comment of flattened arguments would replace it.
        let about = command.get_about().cloned().unwrap_or_default();
        let mut command = Self::augment_args(command).about(about).args(peers.iter().map(peer_flag));
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

/// Builds the flag for the gRPC URL of a peer.
fn peer_flag(peer: &&'static str) -> Arg {
    let name = flag_name(peer);
    Arg::new(name.clone())
        .env(api::grpc_url_variable(peer))
        .long(name)
        .global(true)
        .value_name("URL")
        .value_parser(PeerUrl::from_str)
        .help(format!(
            "gRPC URL of {peer}, such as `http://{peer}-headless:50051`; if unset, {peer} counts as unavailable"
        ))
}

fn flag_name(peer: &str) -> String {
    format!("{peer}-grpc-url")
}

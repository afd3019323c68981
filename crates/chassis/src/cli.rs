//! A service's command line; every flag mirrors an environment variable.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use api::identity::{ALLOW_FROM, ANY, TOKEN_DIR};
use clap::{Arg, Args, FromArgMatches, Parser, Subcommand};
use identity::AuthArgs;
use runtime::process::ProcessArgs;
use sqlx::postgres::PgConnectOptions;

use crate::{AllowFrom, grpc::PeerUrl};

#[derive(Debug, Parser)]
pub(crate) struct Cli<A: Args> {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: ServeArgs<A>,
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

/// The flags of a service. `A` are the settings that only this service has.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs<A: Args = ()> {
    /// The flags of every process
    #[command(flatten)]
    pub process: ProcessArgs,
    /// Address to serve gRPC on
    #[arg(long, env, global = true, value_name = "ADDRESS", default_value = "0.0.0.0:50051")]
    pub grpc_addr: SocketAddr,
    /// URL of the service's own database: `postgres://USER:PASSWORD@HOST:PORT/DATABASE`; `?sslmode=verify-full`
    /// requires TLS
    #[arg(long, env, global = true, value_name = "URL", hide_env_values = true)]
    pub database_url: Option<DatabaseUrl>,
    /// Maximum number of database connections, not counting the readiness check's
    #[arg(long, env, global = true, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(3..=1000))]
    pub database_pool_size: u32,
    /// Who may send requests
    #[command(flatten)]
    pub auth: AuthArgs,
    /// Services that may call this one: the subjects of their tokens, separated by commas, or `any`. Users, machines and
    /// administrators are not affected
    #[arg(long, env = ALLOW_FROM, global = true, value_name = "SUBJECTS", default_value = ANY)]
    pub auth_allow_from: AllowFrom,
    /// Folder with a token for each peer, in a file of its name, which is read again when it changes
    #[arg(long, env = TOKEN_DIR, global = true, value_name = "FOLDER")]
    pub auth_token_dir: Option<PathBuf>,
    /// The service's own settings
    #[command(flatten)]
    pub settings: A,
    /// The URLs of the peers that the service calls; each peer has its own flag.
    #[arg(skip)]
    pub peers: Vec<(&'static str, PeerUrl)>,
}

/// A Postgres URL. It holds a password, so it is never shown.
#[derive(Clone)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// Parses the URL.
    ///
    /// # Errors
    /// Returns a text that names the expected form and repeats nothing of the URL.
    pub fn options(&self) -> Result<PgConnectOptions, &'static str> {
        let expected = "DATABASE_URL must be a URL such as postgres://USER:PASSWORD@HOST:5432/DATABASE";
        if !self.0.starts_with("postgres://") && !self.0.starts_with("postgresql://") {
            return Err(expected);
        }
        PgConnectOptions::from_str(&self.0).map_err(|_| expected)
    }
}

impl From<String> for DatabaseUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl(***)")
    }
}

impl<A: Args> ServeArgs<A> {
    /// Parses the database URL.
    pub(crate) fn database_options(&self) -> Result<PgConnectOptions, &'static str> {
        let url = self.database_url.as_ref().ok_or("DATABASE_URL is not set; set it or pass --database-url")?;
        url.options()
    }
}

impl<A: Args> Cli<A> {
    /// Parses the arguments and the environment of the process.
    ///
    /// # Errors
    /// Returns clap's error, which is also how `--help` and `--version` are returned.
    pub(crate) fn read(
        command: clap::Command,
        peers: &'static [&'static str],
        serves_grpc: bool,
    ) -> Result<Self, clap::Error> {
        // Kept because `augment_args` would replace it with the doc comment of the flattened arguments.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_never_shown() {
        let url = DatabaseUrl::from("mysql://ada:secret@localhost/x".to_owned());
        assert_eq!(format!("{url:?}"), "DatabaseUrl(***)");
        assert!(!url.options().expect_err("no Postgres URL").contains("secret"));
        let url = DatabaseUrl::from("postgres://ada:secret@localhost:badport/x".to_owned());
        assert!(!url.options().expect_err("a bad port").contains("secret"));
    }
}

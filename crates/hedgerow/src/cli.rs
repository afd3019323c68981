//! The command line; every flag of `up` mirrors an environment variable.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, Parser, value_parser};

use crate::service::{ROWS, Row, Service};

/// Hedgerow on one machine.
#[derive(Debug, Parser)]
#[command(version)]
pub enum Cli {
    /// Run every service on an embedded Postgres, until Ctrl-C
    Up(Up),
    /// Run a command with a throwaway Postgres in its environment (`DATABASE_URL`, `PGHOST`, ...)
    Postgres(Postgres),
}

#[derive(Debug, Args)]
pub struct Up {
    /// Where the data are kept
    #[arg(long, env = "HEDGEROW_DATA_DIR", value_name = "FOLDER", default_value = ".hedgerow")]
    pub data_dir: PathBuf,
    #[command(flatten)]
    pub services: Services,
}

#[derive(Debug, Args)]
pub struct Postgres {
    /// Keep what is committed safe from a crash of the machine, as in production; slower
    #[arg(long)]
    pub fsync: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// A flag for each address of each row of the table of services.
#[derive(Debug)]
pub struct Services(pub Vec<Service>);

impl Args for Services {
    fn augment_args(command: Command) -> Command {
        command.args(ROWS.iter().flat_map(|row| {
            let grpc =
                row.grpc.map(|default| flag(&row.grpc_flag(), default, format!("Where {} serves gRPC", row.name)));
            let http = flag(&row.http_flag(), row.http, format!("Where {} serves requests", row.name));
            let admin = flag(&row.admin_flag(), row.admin, format!("Where {} serves /readyz and /metrics", row.name));
            [Some(http), grpc, Some(admin)].into_iter().flatten()
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Services {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let address = |flag: String| {
            let missing = || clap::Error::raw(ErrorKind::MissingRequiredArgument, format!("--{flag} is missing\n"));
            matches.get_one(&flag).copied().ok_or_else(missing)
        };
        let service = |row: &'static Row| {
            let grpc = row.grpc.map(|_| address(row.grpc_flag())).transpose()?;
            Ok(Service { row, http: address(row.http_flag())?, grpc, admin: address(row.admin_flag())? })
        };
        ROWS.iter().map(service).collect::<Result<_, _>>().map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn flag(name: &str, default: SocketAddr, help: String) -> Arg {
    Arg::new(name.to_owned())
        .long(name.to_owned())
        .env(variable(name))
        .value_name("ADDRESS")
        .default_value(default.to_string())
        .value_parser(value_parser!(SocketAddr))
        .help(help)
}

/// The environment variable of a flag: `users-admin-addr` is `USERS_ADMIN_ADDR`.
pub fn variable(flag: &str) -> String {
    flag.replace('-', "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn each_service_has_its_addresses() {
        let arguments = [
            "--users-addr",
            "[::1]:1",
            "--inventory-admin-addr=0.0.0.0:2",
            "--inventory-grpc-addr=[::1]:3",
            "--gateway-addr=[::1]:4",
        ];
        let Cli::Up(up) = Cli::parse_from(["hedgerow", "up"].into_iter().chain(arguments)) else {
            panic!("another command");
        };
        let addresses = up.services.0.iter().flat_map(Service::addresses).map(|(address, _)| address.to_string());
        let expected =
            ["[::1]:1", "127.0.0.1:9091", "127.0.0.1:8082", "[::1]:3", "0.0.0.0:2", "[::1]:4", "127.0.0.1:9093"];
        assert_eq!(addresses.collect::<Vec<_>>(), expected);
    }
}

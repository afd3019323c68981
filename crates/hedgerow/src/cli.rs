//! The command line; every flag of `up` mirrors an environment variable.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use clap::{Arg, ArgGroup, ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser, value_parser};

use crate::service::{self, Purpose, Service, variable};
use crate::{manifest, ports};

/// Run Hedgerow on one machine
#[derive(Debug, Parser)]
#[command(name = "hedgerow", version)]
pub enum Cli {
    /// Run every service on an embedded Postgres, until Ctrl-C
    ///
    /// Each service is described by a Microservice object, as in a cluster. It gets a database of its own if it has
    /// spec.database, and is reachable through the gateway under the paths of spec.route. hedgerow runs the
    /// binary with the service's name in the folder of the hedgerow binary, or the command in the annotation
    /// hedgerow.dev/command.
    Up(Up),
    /// Run a command with an ephemeral Postgres in its environment (`DATABASE_URL`, `PGHOST`, ...)
    Postgres(Postgres),
    /// Create a small service with an API, a database and tests in services/NAME
    New(New),
    /// Print an access token for the services of `up --auth`, valid for an hour
    ///
    /// It is signed with the key in the data folder, whether `up` is running or not. Send it as `Authorization: Bearer
    /// TOKEN`.
    Token(Token),
}

#[derive(Debug, Args)]
pub struct Up {
    /// A file with Microservice objects, or a folder with a microservice.yaml in it or in its subfolders; can be
    /// repeated
    /// [default: services; if that has none, the services built into this binary]
    #[arg(short, long = "file", value_name = "FILE|FOLDER")]
    pub files: Vec<PathBuf>,
    /// The folder for the data
    #[arg(long, env = "HEDGEROW_DATA_DIR", value_name = "FOLDER", default_value = ".hedgerow")]
    pub data_dir: PathBuf,
    /// Require a token for requests, as in production; `hedgerow token` prints one
    ///
    /// The services get keys and tokens to recognize each other, and the service `users` issues tokens to users.
    /// Issuers in `AUTH_ISSUERS` are trusted as well. Without this flag requests need no token unless `AUTH` says so, and
    /// addresses that others may reach are refused unless `AUTH` is set.
    #[arg(long)]
    pub auth: bool,
    /// Lifetime of the tokens of services. Only tests change it
    #[arg(long, hide = true, env = "HEDGEROW_TOKEN_LIFETIME", value_name = "TIME", default_value = "1h")]
    #[arg(value_parser = lifetime)]
    pub token_lifetime: Duration,
    /// What `files` describe. Each service has a flag for each of its addresses.
    #[arg(skip)]
    pub services: Vec<Service>,
}

#[derive(Debug, Args)]
pub struct Postgres {
    /// Let committed data survive a crash of the machine, as in production (slower)
    #[arg(long)]
    pub fsync: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct New {
    /// The name of the service, such as orders: lowercase letters, digits and hyphens, starting with a letter
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Generate it in Python, using only the standard library and no database
    #[arg(long)]
    pub python: bool,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("holder").required(true))]
pub struct Token {
    /// A token of an administrator
    #[arg(long, group = "holder")]
    pub admin: bool,
    /// A token with this scope and no role, such as inventory:write; can be repeated
    #[arg(long = "scope", group = "holder", value_name = "SCOPE", value_parser = scope)]
    pub scopes: Vec<String>,
    /// A token of this service
    #[arg(long, group = "holder", value_name = "NAME", value_parser = name)]
    pub service: Option<String>,
    /// The only service that accepts the token of `--service`, as in calls from one to the other
    /// [default: the gateway and all services]
    #[arg(long = "for", value_name = "NAME", value_parser = name, requires = "service")]
    #[arg(conflicts_with_all = ["admin", "scopes"])]
    pub callee: Option<String>,
    /// The data folder of `up --auth`
    #[arg(long, env = "HEDGEROW_DATA_DIR", value_name = "FOLDER", default_value = ".hedgerow")]
    pub data_dir: PathBuf,
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let allowed = Duration::from_secs(1)..=Duration::from_hours(24);
    if allowed.contains(&lifetime) { Ok(lifetime) } else { Err("must be 1s to 24h".to_owned()) }
}

/// One scope (RFC 6749, section 3.3).
fn scope(text: &str) -> Result<String, &'static str> {
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    let is_scope = !text.is_empty() && text.bytes().all(is_allowed);
    if is_scope { Ok(text.to_owned()) } else { Err("must be one scope, such as inventory:write") }
}

/// The name of a service.
fn name(text: &str) -> Result<String, &'static str> {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_name = !text.is_empty() && text.bytes().all(is_allowed);
    if is_name { Ok(text.to_owned()) } else { Err("must be the name of a service, such as inventory") }
}

impl Cli {
    /// Parses a command line and the environment. Exits on `--help` and on errors, as clap does.
    pub fn read(arguments: &[OsString]) -> anyhow::Result<Self> {
        let services = if needs_services(arguments) {
            service::in_start_order(ports::assign(manifest::load(&manifest::arguments(arguments))?)?)
        } else {
            Vec::new()
        };
        let command = Self::command().mut_subcommand("up", |up| up.args(flags(&services)));
        ensure_flags_differ(&command)?;
        let matches = command.get_matches_from(arguments);
        let mut cli = Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        if let (Self::Up(up), Some(matches)) = (&mut cli, matches.subcommand_matches("up")) {
            up.services = services.into_iter().map(|service| with_addresses(service, matches)).collect();
        }
        Ok(cli)
    }
}

/// Whether the command is `up` or `help up`, whose flags depend on the services.
fn needs_services(arguments: &[OsString]) -> bool {
    let mut words = arguments.iter().skip(1).filter(|argument| !argument.as_encoded_bytes().starts_with(b"-"));
    let command = words.next().filter(|word| *word != "help").or_else(|| words.next());
    command.is_some_and(|word| word == "up")
}

/// A flag for each address of each service.
fn flags(services: &[Service]) -> impl Iterator<Item = Arg> {
    services.iter().flat_map(|service| {
        service.addresses().map(|(purpose, default)| {
            let name = service.flag(purpose);
            let serves = match purpose {
                Purpose::Http => "HTTP requests",
                Purpose::Grpc => "gRPC requests",
                Purpose::Admin => "probes and metrics",
            };
            Arg::new(name.clone())
                .env(variable(&name))
                .long(name)
                .value_name("ADDRESS")
                .default_value(default.to_string())
                .value_parser(value_parser!(SocketAddr))
                .help(format!("Address of {} for {serves}", service.name()))
                .help_heading("Addresses")
        })
    })
}

/// The admin address of a service `a` and the address of a service `a-admin` would have one flag.
fn ensure_flags_differ(command: &Command) -> anyhow::Result<()> {
    let mut names: Vec<_> =
        command.find_subcommand("up").into_iter().flat_map(Command::get_arguments).filter_map(Arg::get_long).collect();
    names.sort_unstable();
    for pair in names.windows(2) {
        ensure!(pair[0] != pair[1], "two services would have the flag --{}: rename one of them", pair[0]);
    }
    Ok(())
}

fn with_addresses(mut service: Service, matches: &ArgMatches) -> Service {
    for (purpose, default) in service.addresses().collect::<Vec<_>>() {
        let address = matches.get_one(&service.flag(purpose)).copied().unwrap_or(default);
        service.set_address(purpose, address);
    }
    service
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(arguments: &[&str]) -> anyhow::Result<Up> {
        match Cli::read(&["hedgerow", "up"].iter().chain(arguments).map(OsString::from).collect::<Vec<_>>())? {
            Cli::Up(up) => Ok(up),
            _ => panic!("another command"),
        }
    }

    #[test]
    fn the_command_line_is_valid() {
        Cli::command().debug_assert();
    }

    #[test]
    fn only_up_needs_the_services() {
        for (line, expected) in [
            ("hedgerow up", true),
            ("hedgerow help up", true),
            ("hedgerow up --help", true),
            ("hedgerow new up", false),
            ("hedgerow new --python up", false),
            ("hedgerow postgres -- up", false),
            ("hedgerow help", false),
            ("hedgerow", false),
        ] {
            let arguments: Vec<_> = line.split(' ').map(OsString::from).collect();
            assert_eq!(needs_services(&arguments), expected, "{line}");
        }
    }

    #[test]
    fn each_service_has_a_flag_per_address() {
        let up = up(&[
            "--users-addr",
            "[::1]:1",
            "--inventory-admin-addr=0.0.0.0:2",
            "--inventory-grpc-addr=[::1]:3",
            "--gateway-addr=[::1]:4",
        ])
        .unwrap();
        let addresses = up.services.iter().flat_map(Service::addresses).map(|(_, address)| address.to_string());
        let expected =
            ["127.0.0.1:8082", "[::1]:3", "0.0.0.0:2", "[::1]:1", "127.0.0.1:9091", "[::1]:4", "127.0.0.1:9090"];
        assert_eq!(addresses.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn two_services_whose_flags_coincide_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut arguments = vec!["-f", folder.path().to_str().unwrap()];
        for name in ["a", "a-admin"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            let text = format!(
                "{{apiVersion: hedgerow.dev/v1alpha1, kind: Microservice, metadata: {{name: {name}}}, spec: {{image: 'r/x:1'}}}}"
            );
            std::fs::write(folder.path().join(name).join("microservice.yaml"), text).unwrap();
        }
        let error = up(&arguments).unwrap_err().to_string();
        assert_eq!(error, "two services would have the flag --a-admin-addr: rename one of them");
        arguments[1] = "/nowhere";
        assert!(format!("{:#}", up(&arguments).unwrap_err()).starts_with("cannot read /nowhere: "));
    }
}

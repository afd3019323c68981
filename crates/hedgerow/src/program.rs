//! A service's program, run by the same contract as in a cluster: arguments and environment.

use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::service::{Service, reachable};
use crate::stop::Stop;

/// How long requests in flight may take to end after SIGTERM.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// How much longer a service may take in all, before it is killed.
pub const GRACE: Duration = Duration::from_secs(2);

/// One service's program and what it is told. No `Debug`: the URL has a password.
pub struct Program {
    pub service: Service,
    path: PathBuf,
    database_url: Option<String>,
    /// Variables that say where it finds the others.
    others: Vec<(String, String)>,
}

impl Program {
    /// The program of that name beside our own, told where it finds those of `all` that it calls or passes requests on
    /// to; it knows no database yet.
    pub fn find(service: Service, all: &[Service]) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("find the folder of this program")?;
        let path = own.with_file_name(service.row.name);
        ensure!(path.is_file(), "there is no program {}: build it with `cargo build`", path.display());
        let peers = all.iter().filter(|peer| service.row.peers.contains(&peer.row.name));
        let mut others: Vec<_> = peers.filter_map(peer).collect();
        if service.row.is_gateway() {
            let routes: Vec<_> = all.iter().filter(|other| !other.row.paths.is_empty()).map(route).collect();
            others.push(("ROUTES".to_owned(), routes.join(" ")));
        }
        Ok(Self { service, path, database_url: None, others })
    }

    /// Tells it where its database is.
    pub fn with_database(mut self, url: String) -> Self {
        self.database_url = Some(url);
        self
    }

    pub fn name(&self) -> &'static str {
        self.service.row.name
    }

    /// Brings the service's database up to date.
    pub async fn migrate(&self) -> anyhow::Result<()> {
        let status = self.command("migrate").status().await.with_context(|| format!("run {}", self.path.display()))?;
        ensure!(status.success(), "`{} migrate` failed ({status})", self.name());
        Ok(())
    }

    /// Starts the service.
    pub fn serve(&self) -> io::Result<Child> {
        self.command("serve").spawn()
    }

    fn command(&self, argument: &str) -> Command {
        let mut command = Command::from(embedded_postgres::tethered("TERM", &self.path));
        // What a client of Postgres takes from the environment is the user's, for servers of the user's.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(name);
        }
        command
            .arg(argument)
            .env_remove("DATABASE_URL")
            .envs(self.database_url.iter().map(|url| ("DATABASE_URL", url)))
            .env("HTTP_ADDR", self.service.http.to_string())
            .envs(self.service.grpc.map(|address| ("GRPC_ADDR", address.to_string())))
            .envs(self.others.iter().map(|(name, value)| (name, value)))
            .env("ADMIN_ADDR", self.service.admin.to_string())
            .env("DRAIN_DELAY", "0s")
            .env("SHUTDOWN_TIMEOUT", format!("{}s", SHUTDOWN_TIMEOUT.as_secs()))
            .stdin(Stdio::null())
            // Ctrl-C in a terminal is for us, who then stop the services in order.
            .process_group(0)
            .kill_on_drop(true);
        command
    }
}

/// The variable that says where a service serves gRPC.
fn peer(service: &Service) -> Option<(String, String)> {
    let address = reachable(service.grpc?);
    Some((format!("{}_GRPC_URL", service.row.name.to_uppercase()), format!("http://{address}")))
}

/// A service and its paths, as the gateway's variable has them.
fn route(service: &Service) -> String {
    format!("{}:{}=http://{}", service.row.name, service.row.paths.join(","), reachable(service.http))
}

/// Asks a service to end and waits for it; kills it when it takes too long or the user does not want to wait.
pub async fn terminate(child: &mut Child, stop: &mut Stop) -> io::Result<ExitStatus> {
    if let Some(pid) = child.id() {
        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM);
    }
    tokio::select! {
        ended = timeout(SHUTDOWN_TIMEOUT + GRACE, child.wait()) => if let Ok(status) = ended {
            return status;
        },
        () = stop.urged() => {}
    }
    child.kill().await?;
    child.wait().await
}

//! Runs the program of a service, under the same contract as in a cluster: arguments and environment.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use embedded_postgres::{Account, DataDir};
use nix::sys::signal::Signal;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::environment::{self, SHUTDOWN_TIMEOUT, Variables};
use crate::group::Group;
use crate::orphans::RUN;
use crate::output::{self, Relay};
use crate::service::Service;

/// How much longer than [`SHUTDOWN_TIMEOUT`] a service may take to exit before it is killed.
pub const GRACE_PERIOD: Duration = Duration::from_secs(2);

/// A service's program, its arguments and its environment. Not `Debug`: the URL contains a password.
pub struct Program {
    pub service: Service,
    /// The folder it runs in, and the program: relative to this folder if it contains a slash, else in `PATH`.
    folder: PathBuf,
    path: PathBuf,
    arguments: Vec<String>,
    account: Account,
    /// The data folder of the run.
    data: PathBuf,
    variables: Variables,
    database_url: Option<String>,
    /// Precedes each line of its output on a terminal; `None` if the output does not go to a terminal.
    prefix: Option<String>,
}

impl Program {
    /// Finds the program of `service`, to be run as the account that owns `data`. It has no database yet.
    pub fn find(service: Service, all: &[Service], data: &DataDir) -> anyhow::Result<Self> {
        let (folder, path, arguments) = match &service.manifest.command {
            Some(words) => command(&service, words)?,
            None => binary(service.name())?,
        };
        let on_terminal = output::is_terminal();
        let variables = environment::of(&service, all, on_terminal, |name| std::env::var(name).ok())?;
        let width = all.iter().map(|service| service.name().len()).max().unwrap_or_default();
        let prefix = on_terminal.then(|| format!("{:<width$} | ", service.name()));
        let (account, data) = (data.account().clone(), data.path().to_owned());
        Ok(Self { service, folder, path, arguments, account, data, variables, database_url: None, prefix })
    }

    /// Sets the URL of its database.
    pub fn with_database(mut self, url: String) -> Self {
        self.database_url = Some(url);
        self
    }

    pub fn name(&self) -> &str {
        self.service.name()
    }

    /// Runs `migrate`, which updates the schema of the service's database.
    pub async fn migrate(&self) -> anyhow::Result<()> {
        let mut process = self.spawn(&["migrate"]).with_context(|| format!("cannot run {}", self.path.display()))?;
        let status = process.wait().await?;
        ensure!(status.success(), "`{} migrate` failed ({status})", self.name());
        Ok(())
    }

    /// Starts the service.
    pub fn serve(&self) -> io::Result<Process> {
        self.spawn(&[])
    }

    fn spawn(&self, arguments: &[&str]) -> io::Result<Process> {
        let mut command = Command::from(self.account.command("TERM", &self.path));
        // The user's settings for Postgres clients are meant for other servers.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(name);
        }
        command
            .args(&self.arguments)
            .args(arguments)
            .current_dir(&self.folder)
            .env_remove("DATABASE_URL")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env(RUN, &self.data)
            .envs(self.database_url.iter().map(|url| ("DATABASE_URL", url)))
            .stdin(Stdio::null())
            // Ctrl-C in a terminal must reach only this process, which stops the services in order.
            .process_group(0);
        let relay = self.prefix.clone().map(|prefix| Relay::attach(&mut command, prefix)).transpose()?;
        let child = command.spawn()?;
        let group = child.id().map(Group::of);
        Ok(Process { child, group, is_stopping: false, relay })
    }
}

/// The binary of this name next to this one. It is run in its folder: under root, its account need not be able to reach
/// it by its path.
fn binary(name: &str) -> anyhow::Result<(PathBuf, PathBuf, Vec<String>)> {
    let own = std::env::current_exe().context("cannot determine the path of this program")?;
    let path = own.with_file_name(name);
    ensure!(path.is_file(), "{} not found: build it with `cargo build --package {name}`", path.display());
    let folder = path.parent().context("this program is in no folder")?.to_owned();
    Ok((folder, Path::new(".").join(name), Vec::new()))
}

/// The folder, the program and the arguments of a command that a manifest gives.
fn command(service: &Service, words: &[String]) -> anyhow::Result<(PathBuf, PathBuf, Vec<String>)> {
    let (first, arguments) = words.split_first().context("the command is empty")?;
    let folder = &service.manifest.folder;
    let is_there = if first.contains('/') {
        folder.join(first).is_file()
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(first).is_file())
    };
    let (name, file) = (service.name(), &service.manifest.file);
    ensure!(
        is_there,
        "{file}: Microservice {name}: program {first} not found: install it, or change hedgerow.dev/command"
    );
    Ok((folder.clone(), first.into(), arguments.to_vec()))
}

/// A running process of a service, with the processes that it has started.
pub struct Process {
    child: Child,
    group: Option<Group>,
    /// Whether the group was asked to exit.
    is_stopping: bool,
    relay: Option<Relay>,
}

impl Process {
    /// Waits for the exit of the process, and for its last output. Ends what it has started and left behind. Cancel safe.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        if let Some(group) = self.group {
            if !self.is_stopping {
                self.is_stopping = true;
                group.signal(Signal::SIGTERM);
            }
            if !group.ended_within(SHUTDOWN_TIMEOUT + GRACE_PERIOD).await {
                group.signal(Signal::SIGKILL);
                group.ended_within(GRACE_PERIOD).await;
            }
        }
        if let Some(relay) = &self.relay {
            relay.finish().await;
        }
        Ok(status)
    }

    /// Asks the process and what it has started to exit, and waits for that. Kills them if it takes too long.
    pub async fn terminate(&mut self) -> io::Result<ExitStatus> {
        self.is_stopping = true;
        self.signal(Signal::SIGTERM);
        if let Ok(status) = timeout(SHUTDOWN_TIMEOUT + GRACE_PERIOD, self.wait()).await {
            return status;
        }
        self.signal(Signal::SIGKILL);
        self.wait().await
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            group.signal(signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

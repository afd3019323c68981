//! Runs the program of a service, under the same contract as in a cluster: arguments and environment.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use embedded_postgres::{Account, DataDir};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use crate::authentication::Authentication;
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
    pub fn find(
        service: Service,
        all: &[Service],
        data: &DataDir,
        authentication: Option<&Authentication>,
    ) -> anyhow::Result<Self> {
        let (folder, path, arguments) = match &service.manifest.command {
            Some(words) => command(&service, words)?,
            None => binary(service.name())?,
        };
        let on_terminal = output::is_terminal();
        let variables = environment::of(&service, all, authentication, on_terminal, environment::inherited)?;
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
        Ok(Process { child, group, deadline: None, relay })
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
    /// Until it has ended.
    group: Option<Group>,
    /// When what the process has left behind is killed, once that was asked to exit.
    deadline: Option<Instant>,
    relay: Option<Relay>,
}

impl Process {
    /// Waits for the exit of the process, and for its last output. Ends what it has started and left behind. Cancel safe.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.end_rest().await;
        if let Some(relay) = &self.relay {
            relay.finish().await;
        }
        Ok(status)
    }

    /// Asks the processes that are left to exit, and kills them if that takes too long.
    async fn end_rest(&mut self) {
        let Some(group) = self.group.filter(|group| group.is_running()) else {
            self.group = None;
            return;
        };
        let deadline = *self.deadline.get_or_insert_with(|| {
            group.signal(Signal::SIGTERM);
            Instant::now() + SHUTDOWN_TIMEOUT + GRACE_PERIOD
        });
        if !group.has_ended_by(deadline).await {
            group.signal(Signal::SIGKILL);
            group.has_ended_by(Instant::now() + GRACE_PERIOD).await;
        }
        self.group = None;
    }

    /// Asks the process to exit, and then what it has started, and waits for that. Kills them if it takes too long. Some
    /// wrappers pass the signal on, so it is not sent to the group: most services stop at once when they get a second one.
    pub async fn terminate(&mut self) -> io::Result<ExitStatus> {
        if let Some(pid) = self.child.id() {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM);
        }
        if let Ok(status) = timeout(SHUTDOWN_TIMEOUT + GRACE_PERIOD, self.wait()).await {
            return status;
        }
        self.kill();
        self.wait().await
    }

    fn kill(&self) {
        let is_own = |group: &Group| self.child.id().is_some() || group.is_running();
        if let Some(group) = self.group.filter(is_own) {
            group.signal(Signal::SIGKILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

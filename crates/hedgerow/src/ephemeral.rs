//! `hedgerow postgres -- CMD`: a Postgres server that lives as long as a command.

use std::ffi::OsStr;
use std::io::{IsTerminal, stdin};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

use anyhow::Context;
use embedded_postgres::{PORT, SUPERUSER, Server, Settings};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;

use crate::cli::Postgres;

/// Runs the command and exits with its status. Nothing of the server remains.
pub async fn run(arguments: Postgres) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let settings = Settings { fsync: arguments.fsync, ..Settings::for_tests() };
    let server = spawn_blocking(move || Server::temporary(&settings)).await??;

    let mut child = command(&arguments.command, &server)?;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            _ = terminate.recv() => forward(&child, Signal::SIGTERM),
            _ = hang_up.recv() => forward(&child, Signal::SIGHUP),
            // On a terminal the command receives the signal as well.
            _ = interrupt.recv() => if !stdin().is_terminal() { forward(&child, Signal::SIGINT) },
        }
    };
    spawn_blocking(|| drop(server)).await?;
    Ok(exit_code(status))
}

fn command(words: &[impl AsRef<OsStr>], server: &Server) -> anyhow::Result<Child> {
    let (program, arguments) = words.split_first().context("the command is empty")?;
    Command::from(embedded_postgres::with_pdeathsig("TERM", program))
        .args(arguments)
        .env("DATABASE_URL", server.superuser_url("postgres"))
        .env("PGHOST", server.socket_dir())
        .env("PGPORT", PORT.to_string())
        .env("PGUSER", SUPERUSER)
        .env("PGDATABASE", "postgres")
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {}", program.as_ref().display()))
}

fn forward(child: &Child, signal: Signal) {
    if let Some(pid) = child.id() {
        let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
    }
}

/// As in a shell: 128 plus the number of the signal that ended the command.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

//! `hedgerow postgres -- CMD`: a server for the time of one command.

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

/// Runs the command and ends as it does; nothing of the server stays.
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
            // From a terminal the command has got it too.
            _ = interrupt.recv() => if !stdin().is_terminal() { forward(&child, Signal::SIGINT) },
        }
    };
    spawn_blocking(|| drop(server)).await?;
    Ok(exit_code(status))
}

fn command(words: &[impl AsRef<OsStr>], server: &Server) -> anyhow::Result<Child> {
    let (program, arguments) = words.split_first().context("there is no command")?;
    Command::from(embedded_postgres::tethered("TERM", program))
        .args(arguments)
        .env("DATABASE_URL", server.superuser_url("postgres"))
        .env("PGHOST", server.socket_dir())
        .env("PGPORT", PORT.to_string())
        .env("PGUSER", SUPERUSER)
        .env("PGDATABASE", "postgres")
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("run {}", program.as_ref().display()))
}

fn forward(child: &Child, signal: Signal) {
    if let Some(pid) = child.id() {
        let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
    }
}

/// As a shell puts it: a signal's number and 128.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

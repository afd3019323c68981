//! `hedgerow`: all services on this machine, or a throwaway Postgres for a command.

mod banner;
mod cli;
mod databases;
mod folder;
mod health;
mod ports;
mod program;
mod service;
mod stop;
mod supervise;
mod throwaway;
mod up;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;

// One thread: children are tethered to the thread that spawns them, which has to last as long as the process.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let ended = match Cli::parse() {
        Cli::Up(up) => up::run(up).await,
        Cli::Postgres(postgres) => throwaway::run(postgres).await,
    };
    ended.unwrap_or_else(|error| {
        eprintln!("hedgerow: {error:#}");
        ExitCode::FAILURE
    })
}

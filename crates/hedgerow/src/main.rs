//! `hedgerow`: runs all services on one machine, runs a command with an ephemeral Postgres, and creates new services.

mod authentication;
mod authority;
mod banner;
mod cli;
mod data_folder;
mod databases;
mod environment;
mod ephemeral;
mod exposure;
mod group;
mod health;
mod manifest;
mod new;
mod orphans;
mod output;
mod ports;
mod program;
mod progress;
mod service;
mod shutdown;
mod supervise;
mod token;
mod up;

use std::process::ExitCode;

use crate::cli::Cli;

// Single-threaded: the kernel sends a child its parent-death signal when the thread that spawned it exits, so children
// must be spawned from a thread that lives as long as the process.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    run().await.unwrap_or_else(|error| {
        eprintln!("hedgerow: {error:#}");
        ExitCode::FAILURE
    })
}

async fn run() -> anyhow::Result<ExitCode> {
    match Cli::read(&std::env::args_os().collect::<Vec<_>>())? {
        Cli::Up(up) => up::run(up).await,
        Cli::Postgres(postgres) => ephemeral::run(postgres).await,
        Cli::New(new) => new::run(&new),
        Cli::Token(token) => token::run(&token),
    }
}

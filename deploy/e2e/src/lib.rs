//! What the end-to-end suite runs inside the cluster, as pods: load through a Service, and probes.
//!
//! Every line of output is a JSON object, for `kubectl logs` to be read by the suite.

pub mod cli;
pub mod client;
pub mod load;
pub mod probe;

use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::Cli;

/// The exit status for wrong arguments, as clap has it.
const USAGE: u8 = 2;

/// The whole of `main`: does what the command line says; 1 where that fails.
pub async fn main() -> ExitCode {
    let succeeded = match Cli::parse() {
        Cli::Load(args) => match args.templates() {
            Ok(templates) => load::run(&args, templates, until_told(), print).await.failed == 0,
            Err(message) => {
                eprintln!("e2e: {message}");
                return ExitCode::from(USAGE);
            }
        },
        Cli::Get(args) => probe::get(&args, print).await,
        Cli::Wait(args) => probe::wait(&args, print).await,
    };
    if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print<T: Serialize>(line: &T) {
    println!("{}", serde_json::to_string(line).unwrap_or_default());
}

/// Cancelled by SIGTERM or SIGINT, which a container's first process ignores unless it asks for them.
fn until_told() -> CancellationToken {
    let told = CancellationToken::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let Ok(mut signal) = signal(kind) else { continue };
        let told = told.clone();
        tokio::spawn(async move {
            signal.recv().await;
            told.cancel();
        });
    }
    told
}

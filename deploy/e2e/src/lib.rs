//! What the end-to-end suite runs inside the cluster, as pods: load through a Service, probes, a service to route to, and
//! faults.
//!
//! Every line of output is a JSON object, for `kubectl logs` to be read by the suite.

pub mod cli;
pub mod client;
pub mod kill;
pub mod load;
pub mod probe;
pub mod relay;
pub mod serve;

use std::process::ExitCode;

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::Cli;

/// The exit status for wrong arguments, as clap has it.
const USAGE: u8 = 2;

/// The whole of `main`: does what the command line says; 1 where that fails.
pub async fn main() -> ExitCode {
    let succeeded = match Cli::read() {
        Cli::Load(args) => match args.templates() {
            Ok(templates) => load::run(&args, templates, until_told(), print).await.failed == 0,
            Err(message) => {
                eprintln!("e2e: {message}");
                return ExitCode::from(USAGE);
            }
        },
        Cli::Get(args) => probe::get(&args, print).await,
        Cli::Wait(args) => probe::wait(&args, print).await,
        Cli::Serve(args) => match serve::Bound::new(&args).await {
            Ok(bound) => {
                bound.serve(&args, until_told()).await;
                true
            }
            Err(error) => complain(&error),
        },
        Cli::Relay(args) => match relay::start(args, until_told()).await {
            Ok((_, relay)) => {
                relay.await;
                true
            }
            Err(error) => complain(&error),
        },
        Cli::Kill { pod } => kill::run(&pod, print).unwrap_or_else(|error| complain(&error)),
    };
    if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn complain(error: &std::io::Error) -> bool {
    eprintln!("e2e: {error}");
    false
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

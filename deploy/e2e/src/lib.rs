//! The programs that the end-to-end suite runs as pods: load, probes, a service to route to, a relay and a process
//! killer.
//!
//! Every line of output is a JSON object, which the suite reads from the logs of the pods.

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

/// The exit status for invalid arguments, the same as that of clap.
const USAGE: u8 = 2;

/// Runs the command. The exit status is 1 if it fails.
pub async fn main() -> ExitCode {
    let succeeded = match Cli::read() {
        Cli::Load(args) => match args.requests() {
            Ok(requests) => load::run(&args, requests, until_signal(), print).await.failed == 0,
            Err(message) => {
                eprintln!("e2e: {message}");
                return ExitCode::from(USAGE);
            }
        },
        Cli::Get(args) => probe::get(&args, print).await,
        Cli::Wait(args) => probe::wait(&args, print).await,
        Cli::Serve(args) => match serve::Bound::new(&args).await {
            Ok(bound) => {
                bound.serve(&args, until_signal()).await;
                true
            }
            Err(error) => report(&error),
        },
        Cli::Relay(args) => match relay::start(args, until_signal()).await {
            Ok((_, relay)) => {
                relay.await;
                true
            }
            Err(error) => report(&error),
        },
        Cli::Kill { pod } => kill::run(&pod, print).unwrap_or_else(|error| report(&error)),
    };
    if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report(error: &std::io::Error) -> bool {
    eprintln!("e2e: {error}");
    false
}

fn print<T: Serialize>(line: &T) {
    println!("{}", serde_json::to_string(line).unwrap_or_default());
}

/// A token that SIGTERM or SIGINT cancels. The first process of a container ignores these signals unless it handles
/// them.
fn until_signal() -> CancellationToken {
    let token = CancellationToken::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let Ok(mut signal) = signal(kind) else { continue };
        let token = token.clone();
        tokio::spawn(async move {
            signal.recv().await;
            token.cancel();
        });
    }
    token
}

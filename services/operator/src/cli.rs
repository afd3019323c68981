//! The command line.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{crd, manifests, render, run, values_schema};

/// The exit status for wrong arguments or configuration, as clap has it.
const USAGE: u8 = 2;

/// Turns `Microservice` objects into running services
#[derive(Debug, Parser)]
#[command(name = "operator", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run in a cluster until SIGTERM or SIGINT
    Run(Box<run::RunArgs>),
    /// Print the definition of the kind, for `kubectl apply --server-side -f -`
    Crd {
        /// Apply it to the cluster this runs in, instead
        #[arg(long)]
        apply: bool,
    },
    /// Put the schema of a spec into a JSON schema, as its definition `microservice`, and print that
    ValuesSchema {
        /// The file; it stays as it is
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print the children of the objects in a file, without a cluster
    Render(render::RenderArgs),
    /// Print what runs the operator in a namespace
    Manifests {
        /// The operator's image
        #[arg(long, value_name = "IMAGE", default_value = concat!("localhost/hedgerow/operator:", env!("CARGO_PKG_VERSION")))]
        image: String,
    },
}

/// The whole of the operator's `main`.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            // What follows is the usage, which `--help` says better.
            let text = error.to_string();
            let message: Vec<_> = text.split("\n\nUsage:").next().unwrap_or_default().split_whitespace().collect();
            return usage(message.join(" ").trim_start_matches("error: "));
        }
        Err(help) => {
            print!("{help}");
            return ExitCode::SUCCESS;
        }
    };
    let printed = match cli.command {
        None => return usage("what to do is missing: run, crd, manifests, render or values-schema"),
        Some(Command::Run(args)) => return run::main(*args, usage),
        Some(Command::Manifests { image }) => manifests::documents(&image),
        Some(Command::Crd { apply: false }) => definition(),
        Some(Command::Crd { apply: true }) => crd::apply(),
        Some(Command::ValuesSchema { file }) => values_schema::complete(&file),
        Some(Command::Render(args)) => render::file(&args),
    };
    match printed {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn definition() -> anyhow::Result<String> {
    Ok(serde_saphyr::to_string(&api::crd::document()?)?)
}

/// Says in one line what is wrong with the arguments or the environment.
pub(crate) fn usage(message: &str) -> ExitCode {
    eprintln!("operator: {message}");
    ExitCode::from(USAGE)
}

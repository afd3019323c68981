//! The command line.

#![allow(clippy::doc_markdown, reason = "`--help` shows backticks as they are")]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use runtime::process::{no_command, usage};

use crate::{NAME, chart, crd, install, render, run};

/// Turns Microservice objects into running services
#[derive(Debug, Parser)]
#[command(name = NAME, version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the operator until SIGTERM or SIGINT
    Run(Box<run::RunArgs>),
    /// Print the CustomResourceDefinition, for kubectl apply --server-side -f -
    Crd {
        /// Apply it to the current cluster instead
        #[arg(long)]
        apply: bool,
    },
    /// Update the generated parts of the Helm chart
    Chart(chart::ChartArgs),
    /// Print the objects that the operator would create for the Microservices in a file (needs no cluster)
    Render(render::RenderArgs),
    /// Print the objects that run the operator in a namespace, without the chart
    Manifests {
        /// The image of the operator
        #[arg(long, value_name = "IMAGE", default_value = concat!("localhost/hedgerow/operator:", env!("CARGO_PKG_VERSION")))]
        image: String,
    },
}

/// The `main` function of the operator.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return no_command(NAME, &error),
    };
    let printed = match cli.command {
        None => return usage(NAME, "a command is required: run, render, crd, manifests or chart"),
        Some(Command::Run(args)) => return run::main(*args),
        Some(Command::Manifests { image }) => install::yaml(&image),
        Some(Command::Crd { apply: false }) => crd::yaml(),
        Some(Command::Crd { apply: true }) => crd::apply(),
        Some(Command::Chart(args)) => chart::update(&args),
        Some(Command::Render(args)) => render::file(&args),
    };
    match printed {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{NAME}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

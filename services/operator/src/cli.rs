//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{chart, crd, exit::usage, install, render, run};

/// Turns `Microservice` objects into running services
#[derive(Debug, Parser)]
#[command(name = "operator", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the operator until SIGTERM or SIGINT
    Run(Box<run::RunArgs>),
    /// Print the `CustomResourceDefinition`, for `kubectl apply --server-side -f -`
    Crd {
        /// Apply it to the current cluster instead
        #[arg(long)]
        apply: bool,
    },
    /// Update the generated parts of the Helm chart
    Chart(chart::ChartArgs),
    /// Print the children of the `Microservice` objects in a file, without a cluster
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
        Err(error) if error.use_stderr() => {
            // One line: `--help` shows the usage.
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
        None => return usage("a command is required: run, render, crd, manifests or chart"),
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
            eprintln!("operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

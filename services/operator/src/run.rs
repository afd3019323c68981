//! The process: starts everything, and ends when its task is another's.

use std::{
    net::SocketAddr,
    process::{self, ExitCode},
    time::Duration,
};

use anyhow::Context as _;
use clap::{ArgAction, Args};
use kube::{Config, client::ClientBuilder};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    controller::{Controller, Settings},
    exit::usage,
    lease::Election,
    manifests::Facts,
    metrics::{CountRequests, Metrics},
};

/// How the operator runs.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// The namespace to work in; left out: the one this process runs in
    #[arg(long, env)]
    namespace: Option<String>,
    /// Tells this installation's databases from another's on the same server
    #[arg(long, env, value_name = "NAME", default_value = "hedgerow")]
    installation: String,
    /// The Secret (key `url` or `uri`) that opens the database server, for objects that name none
    #[arg(long, env, value_name = "SECRET", default_value = "hedgerow-postgres")]
    database_server: String,
    /// Host and port of a Postgres that takes its superuser's password from the Secret that opens the
    /// database server, which is then made where there is none
    #[arg(long, env, value_name = "HOST:PORT")]
    bundled_server: Option<String>,
    /// Secrets that open the registries of the services' images, separated by commas
    #[arg(long, env, value_name = "NAMES", value_delimiter = ',')]
    image_pull_secrets: Vec<String>,
    /// Whether services get a network policy; without one everyone may connect
    #[arg(long, env, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    network_policies: bool,
    /// Whether services get a `PodMonitor`, where the cluster has that kind
    #[arg(long, env, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    pod_monitors: bool,
    /// More labels of the `PodMonitor`s, separated by commas: a Prometheus may be told to look for some
    #[arg(long, env, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    pod_monitor_labels: Vec<(String, String)>,
    /// Namespaces from which metrics may be scraped, separated by commas; left out: all
    #[arg(long, env, value_name = "NAMES", value_delimiter = ',')]
    scrape_namespaces: Vec<String>,
    /// Time between two looks at an object that is as it should be, at which drift in its database is repaired
    #[arg(long, env, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    resync: Duration,
    /// Objects looked at side by side
    #[arg(long, env, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    concurrency: u16,
    /// Where /livez, /readyz and /metrics are served
    #[arg(long, env, value_name = "ADDRESS", default_value = "0.0.0.0:9090")]
    admin_addr: SocketAddr,
    /// This replica's name among the others; left out: made up
    #[arg(long, env, value_name = "NAME")]
    pod_name: Option<String>,
    /// What to log: a level (error, warn, info, debug, trace), or filters such as `info,kube=debug`
    #[arg(long, env, value_name = "FILTER", default_value = "info")]
    log_level: String,
}

/// The whole of `operator run`.
pub(crate) fn main(args: RunArgs) -> ExitCode {
    let _logs = match runtime::telemetry::start("operator", &args.log_level, None) {
        Ok(telemetry) => telemetry,
        Err(error) => return usage(&format!("{error:#}")),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return usage(&format!("cannot start: {error}")),
    };
    match runtime.block_on(run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs until SIGTERM or SIGINT, or until another replica leads.
///
/// # Errors
/// Where the API server cannot be found, the address is taken, or the Lease was lost.
async fn run(args: RunArgs) -> anyhow::Result<()> {
    end_on_panic();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let registry = runtime::metrics::registry(env!("CARGO_PKG_VERSION"))?;
    let metrics = Metrics::new(registry.clone())?;
    let mut config = Config::infer().await.context("cannot find the API server")?;
    // Each step has a time limit and each object a backoff of its own.
    config.default_retry = false;
    let namespace = args.namespace.unwrap_or_else(|| config.default_namespace.clone());
    let client = ClientBuilder::try_from(config)?.with_layer(&CountRequests(metrics.clone())).build();
    let identity = args.pod_name.unwrap_or_else(|| format!("operator-{}", process::id()));

    let (leading, leads) = watch::channel(false);
    let settings = Settings {
        namespace: namespace.clone(),
        installation: args.installation,
        database_server: args.database_server,
        bundled_server: args.bundled_server,
        facts: Facts {
            scrape_namespaces: named(args.scrape_namespaces),
            image_pull_secrets: named(args.image_pull_secrets),
            open_network: !args.network_policies,
            pod_monitor: args.pod_monitors.then(|| args.pod_monitor_labels.into_iter().collect()),
            ..Facts::default()
        },
        resync: args.resync,
        concurrency: args.concurrency,
    };
    let controller = Controller::new(client.clone(), settings, identity.clone(), metrics, leads)?;
    let admin = runtime::serve_admin(args.admin_addr, registry, controller.checks())?;
    tracing::info!(%admin, namespace, identity, "watching");
    let mut election = Election::new(client.clone(), &namespace, identity);
    tokio::select! {
        lost = election.run(&leading) => lost,
        () = controller.run() => anyhow::bail!("the controller ended"),
        _ = terminate.recv() => stop(&election).await,
        _ = interrupt.recv() => stop(&election).await,
    }
}

/// A variable that is set to nothing names nothing.
fn named(names: Vec<String>) -> Vec<String> {
    names.into_iter().filter(|name| !name.is_empty()).collect()
}

fn label(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("a label is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

async fn stop(election: &Election) -> anyhow::Result<()> {
    // What was begun is done again by the next leader: every step may be repeated.
    if let Err(error) = election.release().await {
        tracing::warn!("the Lease was not given up: {error:#}");
    }
    tracing::info!("stopped");
    Ok(())
}

/// A task that panicked would be missed by nobody: the process ends instead, and is started anew.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        process::exit(101);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Set in the process that is to panic.
    const PANIC: &str = "OPERATOR_TEST_PANIC";

    #[tokio::test]
    async fn a_panic_of_any_task_ends_the_process() {
        if std::env::var_os(PANIC).is_some() {
            end_on_panic();
            let _ = tokio::spawn(async { panic!("a mistake in the code") }).await;
            // Only a process that goes on gets here.
            process::exit(0);
        }
        let mut itself = Command::new(std::env::current_exe().expect("this test"));
        itself.args(["run::tests::a_panic_of_any_task_ends_the_process", "--exact"]).env(PANIC, "1");
        assert_eq!(itself.output().expect("it runs").status.code(), Some(101));
    }
}

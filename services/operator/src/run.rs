//! `operator run`: starts everything and exits when leadership is lost.

#![allow(clippy::doc_markdown, reason = "`--help` shows backticks as they are")]

use std::{
    net::SocketAddr,
    process::{ExitCode, exit},
    time::Duration,
};

use anyhow::Context as _;
use clap::{ArgAction, Args};
use kube::{Config, client::ClientBuilder};
use rand::{Rng, distr::Alphanumeric};
use runtime::process::{Signals, usage};

use crate::{
    NAME,
    auth::AuthArgs,
    controller::{Controller, Settings},
    leadership::{Fence, Role},
    lease::Election,
    manifests::RenderInputs,
    metrics::{CountRequests, Metrics},
};

/// The arguments of `operator run`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// Namespace to manage [default: the namespace of the pod]
    #[arg(long, env)]
    namespace: Option<String>,
    /// Distinguishes the databases of this installation from those of others on the same server
    #[arg(long, env, value_name = "NAME", default_value = "hedgerow")]
    installation: String,
    /// Secret with the admin URL (key url or uri) of the default database server
    #[arg(long, env, value_name = "SECRET", default_value = "hedgerow-postgres")]
    database_server: String,
    /// Host and port of the bundled Postgres, which takes its superuser password from the Secret of the
    /// database server; the operator creates that Secret if it does not exist
    #[arg(long, env, value_name = "HOST:PORT")]
    bundled_server: Option<String>,
    /// Comma-separated names of image pull secrets for the services
    #[arg(long, env, value_name = "NAMES", value_delimiter = ',')]
    image_pull_secrets: Vec<String>,
    /// Whether to create network policies; without them, anything may connect to a service
    #[arg(long, env, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    network_policies: bool,
    /// Whether to create a PodMonitor for each service, if the cluster has that kind
    #[arg(long, env, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    pod_monitors: bool,
    /// Comma-separated labels to add to PodMonitors, so that your Prometheus selects them
    #[arg(long, env, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    pod_monitor_labels: Vec<(String, String)>,
    /// Comma-separated names of namespaces that may scrape metrics [default: all]
    #[arg(long, env, value_name = "NAMES", value_delimiter = ',')]
    scrape_namespaces: Vec<String>,
    #[command(flatten)]
    auth: AuthArgs,
    /// Interval at which unchanged objects are reconciled and drift in their databases is repaired
    #[arg(long, env, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    resync: Duration,
    /// Number of objects reconciled concurrently
    #[arg(long, env, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    concurrency: u16,
    /// Digest of this configuration; objects with another one in spec.configuration wait for another operator
    #[arg(long, env, value_name = "DIGEST")]
    configuration: Option<String>,
    /// Address to serve /livez, /readyz and /metrics on
    #[arg(long, env, value_name = "ADDRESS", default_value = "0.0.0.0:9090")]
    admin_addr: SocketAddr,
    /// Name of this replica in leader election [default: a generated one]
    #[arg(long, env, value_name = "NAME")]
    pod_name: Option<String>,
    /// Log level (error, warn, info, debug, trace), or filters such as info,kube=debug
    #[arg(long, env, value_name = "FILTER", default_value = "info")]
    log_level: String,
}

/// Runs `operator run`.
pub(crate) fn main(args: RunArgs) -> ExitCode {
    let _logs = match runtime::telemetry::start(NAME, &args.log_level, None) {
        Ok(telemetry) => telemetry,
        Err(error) => return usage(NAME, &format!("{error:#}")),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return usage(NAME, &format!("cannot start: {error}")),
    };
    match runtime.block_on(run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "exiting");
            ExitCode::FAILURE
        }
    }
}

/// Runs until SIGTERM or SIGINT, or until leadership is lost.
///
/// # Errors
/// Returns an error if the API server cannot be found, the admin address is in use, or leadership is lost.
async fn run(args: RunArgs) -> anyhow::Result<()> {
    exit_on_panic();
    let mut signals = Signals::new()?;

    let registry = runtime::metrics::registry(env!("CARGO_PKG_VERSION"))?;
    let metrics = Metrics::new(registry.clone())?;
    let mut config = Config::infer().await.context("cannot find the API server")?;
    // Each step has its own timeout and each object its own backoff.
    config.default_retry = false;
    let namespace = args.namespace.unwrap_or_else(|| config.default_namespace.clone());
    let identity = identity(args.pod_name);
    let counted = CountRequests(metrics.clone());
    // It has connections of its own, so nothing delays the renewal of the Lease.
    let client = ClientBuilder::try_from(config.clone())?.with_layer(&counted).build();
    let mut election = Election::new(client, &namespace, identity.clone());
    let leadership = election.leadership();
    let client = ClientBuilder::try_from(config)?.with_layer(&counted).with_layer(&Fence(leadership.clone())).build();
    let settings = Settings {
        namespace: namespace.clone(),
        installation: args.installation,
        database_server: args.database_server,
        bundled_server: args.bundled_server,
        inputs: RenderInputs {
            scrape_namespaces: named(args.scrape_namespaces),
            image_pull_secrets: named(args.image_pull_secrets),
            open_network: !args.network_policies,
            pod_monitor: args.pod_monitors.then(|| args.pod_monitor_labels.into_iter().collect()),
            authentication: args.auth.authentication(),
            ..RenderInputs::default()
        },
        issuers: args.auth.issuers().to_vec(),
        resync: args.resync,
        concurrency: args.concurrency,
        configuration: args.configuration.filter(|digest| !digest.is_empty()),
    };
    let leads = leadership.clone();
    let controller = Controller::new(client, settings, identity.clone(), metrics, leadership)?;
    let admin = runtime::serve_admin(args.admin_addr, registry, controller.checks())?;
    tracing::info!(%admin, namespace, identity, "waiting for leadership");
    let release = controller.release();
    tokio::select! {
        lost = election.run() => lost,
        () = controller.run() => anyhow::bail!("the controller stopped unexpectedly"),
        () = signals.recv() => {
            if matches!(leads.role(), Role::Leader(_)) {
                release.await;
            }
            stop(&election).await
        }
    }
}

/// The name of this replica, which no other one has: the name of its pod, or that of the host with random characters.
/// Process ids would not do, because in a container every process has the same one.
fn identity(pod_name: Option<String>) -> String {
    pod_name.filter(|name| !name.is_empty()).unwrap_or_else(|| {
        let host = hostname::get().unwrap_or_default();
        let random: String = rand::rng().sample_iter(Alphanumeric).take(10).map(char::from).collect();
        format!("{}-{random}", host.display())
    })
}

/// Drops empty names: a variable that is set to an empty string names nothing.
fn named(names: Vec<String>) -> Vec<String> {
    names.into_iter().filter(|name| !name.is_empty()).collect()
}

fn label(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("a label must have the form KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Releases the Lease. The controller has stopped by then: unfinished reconciles need no cleanup, since the next leader
/// repeats them.
async fn stop(election: &Election) -> anyhow::Result<()> {
    if let Err(error) = election.release().await {
        tracing::warn!(error = format!("{error:#}"), "cannot release the Lease");
    }
    tracing::info!("stopped");
    Ok(())
}

/// Exits the process when any task panics, because nothing else would notice. Kubernetes restarts it.
fn exit_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        exit(101);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn replicas_without_a_pod_name_have_different_identities() {
        assert_eq!(identity(Some("hedgerow-operator-x".to_owned())), "hedgerow-operator-x");
        assert_ne!(identity(None), identity(None));
        assert_ne!(identity(Some(String::new())), "", "a variable that is set to an empty string names nothing");
    }

    /// Set in the child process that panics.
    const PANIC: &str = "OPERATOR_TEST_PANIC";

    #[tokio::test]
    async fn a_panic_in_any_task_ends_the_process() {
        if std::env::var_os(PANIC).is_some() {
            exit_on_panic();
            let _ = tokio::spawn(async { panic!("a mistake in the code") }).await;
            // Reached only if the process survives the panic.
            exit(0);
        }
        let mut itself = Command::new(std::env::current_exe().expect("this test"));
        itself.args(["run::tests::a_panic_in_any_task_ends_the_process", "--exact"]).env(PANIC, "1");
        assert_eq!(itself.output().expect("it runs").status.code(), Some(101));
    }
}

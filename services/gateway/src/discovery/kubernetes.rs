//! Services of a Kubernetes namespace. An annotation of each Service says which paths it claims, and its
//! `EndpointSlice`s list its endpoints. Both kinds are watched; nothing else is requested from the API server.
//!
//! While the API server is unavailable, the last known state stays in use. A new list replaces the old one only once it
//! is complete.

mod metrics;
mod objects;
mod table;
mod watch;

#[cfg(test)]
mod tests;

use anyhow::Context as _;
use futures_util::{Stream, StreamExt, stream};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Client, Config, runtime::watcher::Event};
use prometheus::Registry;

use self::{metrics::Metrics, objects::ServiceMeta, table::Table, watch::watch};
use super::publisher::Publisher;

/// The number of pending changes that are applied before their result is published.
const BATCH: usize = 1024;

/// A change of an object of either kind.
enum Change {
    Service(Event<ServiceMeta>),
    Slice(Event<EndpointSlice>),
}

/// Starts to watch the services of a namespace.
///
/// # Errors
/// Returns an error if no API server is configured, neither in the cluster nor by a kubeconfig.
pub(super) async fn start(namespace: Option<&str>, registry: &Registry, publisher: Publisher) -> anyhow::Result<()> {
    let config = Config::infer().await;
    let mut config = config.context(
        "no routes configured and no Kubernetes cluster found; set ROUTES (or --route), or run in a cluster",
    )?;
    watch::set_timeouts(&mut config);
    let namespace = namespace.unwrap_or(&config.default_namespace).to_owned();
    let client = Client::try_from(config)?;
    let metrics = Metrics::new(registry)?;
    tracing::info!(namespace, "watching services and endpoints");
    tokio::spawn(follow(changes(&client, &namespace, &metrics), metrics, publisher));
    Ok(())
}

fn changes(client: &Client, namespace: &str, metrics: &Metrics) -> impl Stream<Item = Change> + Send + use<> {
    let [services, slices] = ["services", "endpointslices"];
    let services = watch(client, namespace, services, metrics.failures(services));
    let slices = watch(client, namespace, slices, metrics.failures(slices));
    stream::select(services.map(Change::Service), slices.map(Change::Slice))
}

/// Applies changes as they arrive, and publishes the resulting services.
async fn follow(changes: impl Stream<Item = Change> + Send, metrics: Metrics, publisher: Publisher) {
    let mut changes = Box::pin(changes.ready_chunks(BATCH));
    let mut table = Table::default();
    while let Some(changes) = changes.next().await {
        for change in changes {
            match change {
                Change::Service(event) => table.services.apply(event, objects::claim),
                Change::Slice(event) => table.slices.apply(event, objects::slice),
            }
        }
        if let Some(view) = table.view() {
            metrics.report(&view);
            publisher.publish(view.services);
        }
    }
}

//! Services of a Kubernetes namespace: which path belongs to which is an annotation of the Service, where its pods are
//! in its `EndpointSlice`s. Both are watched, and nothing else is asked of the API server.
//!
//! What was known last stays in use while the API server is away, for as long as it takes: a list counts once it is
//! complete, and until then the one before does.

mod metrics;
mod objects;
mod patience;
mod table;

#[cfg(test)]
mod tests;

use anyhow::Context as _;
use futures_util::{Stream, StreamExt, stream};
use k8s_openapi::api::{core, discovery::v1::EndpointSlice};
use kube::{Client, Config, core::PartialObjectMeta, runtime::watcher::Event};
use prometheus::Registry;

use self::{metrics::Metrics, patience::watch, table::Table};
use super::Publisher;

/// A Service, of which the metadata say all.
type Service = PartialObjectMeta<core::v1::Service>;

/// Changes that are taken in before what they come to is told. There is no wait for more of them.
const AT_ONCE: usize = 1024;

/// What happened to an object of either kind.
enum Change {
    Service(Event<Service>),
    Slice(Event<EndpointSlice>),
}

/// Begins to watch the services of a namespace.
///
/// # Errors
/// Where there is no API server to ask.
pub(super) async fn start(namespace: Option<&str>, registry: &Registry, publisher: Publisher) -> anyhow::Result<()> {
    let config = Config::infer().await;
    let mut config = config.context("there are no routes (--route, ROUTES), and no cluster to find any in")?;
    patience::limit(&mut config);
    let namespace = namespace.unwrap_or(&config.default_namespace).to_owned();
    let client = Client::try_from(config)?;
    let metrics = Metrics::new(registry)?;
    tracing::info!(namespace, "looking for services");
    tokio::spawn(follow(changes(&client, &namespace, &metrics), metrics, publisher));
    Ok(())
}

fn changes(client: &Client, namespace: &str, metrics: &Metrics) -> impl Stream<Item = Change> + Send + use<> {
    let (services, slices) = ("services", "endpointslices");
    let (of_services, of_slices) = (metrics.failures(services), metrics.failures(slices));
    let services = watch(client, namespace, services, of_services);
    let slices = watch(client, namespace, slices, of_slices);
    stream::select(services.map(Change::Service), slices.map(Change::Slice))
}

/// Tells of each change at once.
async fn follow(changes: impl Stream<Item = Change> + Send, metrics: Metrics, publisher: Publisher) {
    let mut changes = Box::pin(changes.ready_chunks(AT_ONCE));
    let mut table = Table::default();
    while let Some(changes) = changes.next().await {
        for change in changes {
            match change {
                Change::Service(event) => table.services.apply(event, objects::claim),
                Change::Slice(event) => table.slices.apply(event, objects::slice),
            }
        }
        if let Some(view) = table.view() {
            metrics.show(&view);
            publisher.publish(view.services);
        }
    }
}

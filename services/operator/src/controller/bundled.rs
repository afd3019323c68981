//! Replaces the pod of the bundled Postgres that a failed upgrade left behind.
//!
//! A `StatefulSet` does not replace a pod that never became ready, such as one whose image does not exist, even after a
//! rollback. It is used nevertheless: it never starts a second pod while the first one may still write to the volume.

use std::time::Duration;

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ContainerStatus, Pod},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Preconditions},
    runtime::wait::await_condition,
};
use tokio::time;

use super::{
    context::Context,
    error::{Error, with_timeout},
};

/// The name of the `StatefulSet` in the chart.
const STATEFUL_SET: &str = "hedgerow-postgres";
/// The name of its only pod.
const POD: &str = "hedgerow-postgres-0";
/// The interval at which the pod is checked while it is not ready.
const INTERVAL: Duration = Duration::from_secs(5);

/// Replaces stuck pods for as long as the process runs.
pub(crate) async fn replace_stuck_pods(context: &Context) {
    if context.settings.bundled_server.is_none() {
        return;
    }
    let sets: Api<StatefulSet> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    loop {
        // While the pod is ready, this is a watch and nothing else.
        match await_condition(sets.clone(), STATEFUL_SET, is_unready).await {
            Ok(Some(set)) => {
                if let Err(error) = replace(context, &set).await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot replace a pod of Postgres");
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot watch the bundled Postgres; retrying");
            }
        }
        time::sleep(INTERVAL).await;
    }
}

/// Deletes the pod if it is of an old revision and does not run. The `StatefulSet` then creates it anew.
async fn replace(context: &Context, set: &StatefulSet) -> Result<(), Error> {
    let status = set.status.clone().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    let Some(pod) = with_timeout("read the pod of Postgres", pods.get_opt(POD)).await? else { return Ok(()) };
    let is_old = status.observed_generation == set.metadata.generation
        && status.update_revision.is_some()
        && pod.labels().get("controller-revision-hash") != status.update_revision.as_ref();
    if !is_old || runs(&pod) || pod.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    tracing::warn!(pod = POD, "deleting the pod of the bundled Postgres: it does not run, and is of an old revision");
    let preconditions = Some(Preconditions { uid: pod.uid(), resource_version: None });
    let parameters = DeleteParams { preconditions, ..DeleteParams::default() };
    match with_timeout("delete the pod of Postgres", pods.delete(POD, &parameters)).await {
        Err(error) if !error.is_gone() => Err(error),
        _ => Ok(()),
    }
}

fn is_unready(set: Option<&StatefulSet>) -> bool {
    let desired = |set: &StatefulSet| set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let ready = |set: &StatefulSet| set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    set.is_some_and(|set| ready(set) < desired(set))
}

/// Whether the server runs, ready or not: it may be recovering.
fn runs(pod: &Pod) -> bool {
    let running = |container: &ContainerStatus| container.state.as_ref().is_some_and(|state| state.running.is_some());
    pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten()).any(running)
}

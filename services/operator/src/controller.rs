//! The controller: watches objects and their children, and reconciles each object that changed.

mod backoff;
mod bundled;
mod cache;
mod child;
mod children;
mod cluster;
mod conditions;
mod context;
mod database;
mod deploy;
mod digest;
mod error;
mod events;
mod existing;
mod fields;
mod finalize;
mod known_objects;
mod known_secrets;
mod migration;
mod observed;
mod own_statuses;
mod pods;
mod queue;
mod reconcile;
mod rollout;
mod routes;
mod secret_references;
mod secrets;
mod servers;
mod status;
mod trust;
mod watches;

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use api::Microservice;
use futures_util::{FutureExt, StreamExt, future, stream};
use kube::{
    Client,
    runtime::reflector::{self, ObjectRef, store::Writer},
};
use runtime::Checks;
use tokio::{sync::watch, time};

use crate::{
    leadership::{Leadership, Role},
    metrics::Metrics,
};

use context::Context;
pub(crate) use context::Settings;
use error::Error;
use queue::{Action, Turn};

/// How long the first reconciles wait for the lists of children. Without them they are correct, but read each child.
const LIST_LIMIT: Duration = Duration::from_secs(10);

/// A controller that has not started yet.
pub(crate) struct Controller {
    context: Arc<Context>,
    leadership: Leadership,
    writer: Writer<Microservice>,
    pod_monitors_found: watch::Sender<bool>,
}

impl Controller {
    /// # Errors
    /// Returns an error if two metrics have the same name, which is a bug.
    pub(crate) fn new(
        client: Client,
        settings: Settings,
        identity: String,
        metrics: Metrics,
        leadership: Leadership,
    ) -> Result<Self, prometheus::Error> {
        let (pod_monitors_found, pod_monitors) = watch::channel(false);
        let (objects, writer) = reflector::store();
        let context = Context::new(client, settings, identity, metrics, objects, pod_monitors);
        let queue = context.queue.clone();
        context.metrics.register_objects(context.objects.clone(), move || queue.waiting())?;
        Ok(Self { context: Arc::new(context), leadership, writer, pod_monitors_found })
    }

    /// The checks behind the probes. A follower is ready, since it can take over.
    pub(crate) fn checks(&self) -> Checks {
        let (queue, objects, leadership) =
            (self.context.queue.clone(), self.context.objects.clone(), self.leadership.clone());
        let ready = move || match leadership.role() {
            Role::Unknown => Err(Arc::from("waiting for the API server to return the Lease")),
            Role::Leader(_) if objects.wait_until_ready().now_or_never().is_none() => {
                Err(Arc::from("waiting for the API server to list the objects"))
            }
            Role::Follower | Role::Leader(_) => Ok(()),
        };
        Checks { live: Arc::new(move || queue.check()), ready: Arc::new(ready) }
    }

    /// Lets go of the objects if the namespace is being deleted. To be run once the controller has stopped.
    pub(crate) fn release(&self) -> impl Future<Output = ()> + use<> {
        let context = self.context.clone();
        async move { finalize::release_all(&context).await }
    }

    /// Reconciles objects for as long as the process runs, once this replica leads. It reads nothing before that: what a
    /// follower has read may be older than what the leader did since.
    pub(crate) async fn run(self) {
        let Self { context, leadership, writer, pod_monitors_found } = self;
        leadership.acquired().await;
        let changes = stream::select_all([
            watches::objects(&context, writer).boxed(),
            watches::children(&context).boxed(),
            watches::secrets(&context).boxed(),
            watches::pod_monitors(&context, pod_monitors_found).boxed(),
        ]);
        let changes = changes.for_each(async |object| context.triggered(&object));
        let bundled = future::join(database::ensure_bundled_secret(&context), bundled::replace_stuck_pods(&context));
        let background = future::join(bundled, trust::keep_published(&context));
        let background = background.then(|_| future::pending::<()>());
        tokio::select! {
            () = changes => {}
            () = reconcile_due(&context) => {}
            () = background => {}
        }
    }
}

/// Reconciles the objects in the queue, as soon as all objects and their children are listed.
async fn reconcile_due(context: &Arc<Context>) {
    // The writer is dropped only when the process exits.
    if context.objects.wait_until_ready().await.is_err() {
        future::pending::<()>().await;
    }
    let mut listed = context.listed.subscribe();
    let all = listed.wait_for(|listed| children::kinds().iter().all(|kind| listed.contains(&kind.kind)));
    if time::timeout(LIST_LIMIT, all).await.is_err() {
        tracing::warn!("not all kinds of children could be listed; reconciling nevertheless");
    }
    let turns = stream::unfold((), |()| async { Some((context.queue.next().await, ())) });
    let concurrency = usize::from(context.settings.concurrency);
    turns.for_each_concurrent(concurrency, |turn| take(turn, context.clone()).boxed()).await;
}

/// Reconciles the object whose turn it is.
async fn take(turn: Turn, context: Arc<Context>) {
    let object = ObjectRef::new(turn.object()).within(&context.settings.namespace);
    // It may have been deleted since it was queued.
    if let Some(object) = context.objects.get(&object) {
        let reconciled = reconcile::reconcile(object, context.clone()).await;
        let next = reconciled.unwrap_or_else(|error| retry(turn.object(), &error, &context));
        turn.end(next);
    }
}

/// Schedules the next try after a reconcile that could not even write the status.
fn retry(object: &str, error: &Error, context: &Context) -> Action {
    let wait = context.backoff.wait(object, "ApiServer");
    context.metrics.errors.inc();
    tracing::warn!(object, error = error as &dyn std::error::Error, ?wait, "reconcile failed");
    Action::requeue(wait)
}

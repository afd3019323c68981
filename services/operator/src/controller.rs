//! The controller: watches objects and their children, and reconciles each object that changed.

mod backoff;
mod cache;
mod children;
mod cluster;
mod conditions;
mod context;
mod database;
mod deploy;
mod error;
mod events;
mod finalize;
mod fingerprint;
mod known_objects;
mod migration;
mod pods;
mod queue;
mod reconcile;
mod rollout;
mod routes;
mod secret_references;
mod secrets;
mod servers;
mod status;
mod watches;

#[cfg(test)]
mod tests;

use std::{convert::Infallible, sync::Arc};

use api::Microservice;
use futures_util::{FutureExt, StreamExt, future, stream::SelectAll};
use kube::{
    Client, ResourceExt,
    runtime::{
        controller::{self, Action},
        reflector::{self, store::Writer},
    },
};
use runtime::Checks;
use tokio::sync::watch;

use crate::metrics::Metrics;

use context::Context;
pub(crate) use context::Settings;
use error::Error;

/// A controller that has not started yet.
pub(crate) struct Controller {
    context: Arc<Context>,
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
        leads: watch::Receiver<bool>,
    ) -> Result<Self, prometheus::Error> {
        let (pod_monitors_found, pod_monitors) = watch::channel(false);
        let (objects, writer) = reflector::store();
        let context = Context::new(client, settings, identity, metrics, objects, leads, pod_monitors);
        let queue = context.queue.clone();
        context.metrics.register_objects(context.objects.clone(), move || queue.depth())?;
        Ok(Self { context: Arc::new(context), writer, pod_monitors_found })
    }

    /// The checks behind the probes.
    pub(crate) fn checks(&self) -> Checks {
        let (queue, objects) = (self.context.queue.clone(), self.context.objects.clone());
        Checks {
            live: Arc::new(move || queue.check()),
            ready: Arc::new(move || match objects.wait_until_ready().now_or_never() {
                Some(_) => Ok(()),
                None => Err("waiting for the API server to list the objects".into()),
            }),
        }
    }

    /// Reconciles objects for as long as the process runs.
    pub(crate) async fn run(self) {
        let Self { context, writer, pod_monitors_found } = self;
        let triggers: SelectAll<_> = [
            watches::objects(&context, writer).boxed(),
            watches::children(&context).boxed(),
            watches::pod_monitors(&context, pod_monitors_found).boxed(),
        ]
        .into_iter()
        .collect();
        let queue = context.clone();
        let triggers = triggers.inspect(move |object| queue.triggered(object)).map(Ok::<_, Infallible>);
        let config = controller::Config::default().concurrency(context.settings.concurrency);
        let reconcile = |object, context| reconcile::reconcile(object, context).boxed();
        let objects = context.objects.clone();
        let bundled = context.clone();
        let reconciles = controller::applier(reconcile, retry, context, objects, triggers, config);
        let bundled = database::ensure_bundled_secret(&bundled).then(|()| future::pending::<()>());
        tokio::select! {
            () = reconciles.for_each(|_| future::ready(())) => {}
            () = bundled => {}
        }
    }
}

/// Schedules the next try after a reconcile that could not even write the status.
#[expect(clippy::needless_pass_by_value, reason = "the signature is the controller's")]
fn retry(object: Arc<Microservice>, error: &Error, context: Arc<Context>) -> Action {
    let wait = context.backoff.wait(&object.name_any(), "ApiServer");
    context.metrics.errors.inc();
    tracing::warn!(object = object.name_any(), error = error as &dyn std::error::Error, ?wait, "reconcile failed");
    Action::requeue(wait)
}

//! The controller: what it watches, and when it looks at which object.

mod backoff;
mod calls;
mod children;
mod conditions;
mod credentials;
mod database;
mod deploy;
mod error;
mod events;
mod finalize;
mod migration;
mod pods;
mod queue;
mod reconcile;
mod rollout;
mod routes;
mod status;
mod watches;

#[cfg(test)]
mod tests;

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt, future, stream::SelectAll};
use kube::{
    Client, ResourceExt,
    runtime::{
        controller::{self, Action},
        reflector::{self, ObjectRef, Store, store::Writer},
    },
};
use runtime::Checks;
use tokio::sync::watch;

use crate::{manifests::Facts, metrics::Metrics};
use api::Microservice;

use backoff::Backoff;
use children::Children;
use credentials::Secrets;
use database::Databases;
use error::Error;
use events::Events;
pub(crate) use queue::Queue;
use status::Statuses;

/// What the operator was told at its start.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The namespace it works in: its own.
    pub(crate) namespace: String,
    /// Tells its databases from those of another installation on the same server.
    pub(crate) installation: String,
    /// The Secret of the database server for objects that name none.
    pub(crate) database_server: String,
    /// Host and port of a Postgres that takes its superuser's password from that Secret, which is then made where there
    /// is none.
    pub(crate) bundled_server: Option<String>,
    /// What is the same for all objects.
    pub(crate) facts: Facts,
    /// Time between two looks at an object that is as it should be: drift that no watch shows is found then.
    pub(crate) resync: Duration,
    /// Objects looked at side by side.
    pub(crate) concurrency: u16,
}

/// What every look at an object shares.
pub(crate) struct Context {
    client: Client,
    settings: Settings,
    objects: Store<Microservice>,
    children: Children,
    secrets: Secrets,
    databases: Databases,
    statuses: Statuses,
    events: Events,
    metrics: Metrics,
    backoff: Backoff,
    queue: Queue,
    leads: watch::Receiver<bool>,
    pod_monitors: watch::Receiver<bool>,
}

impl Context {
    fn new(
        client: Client,
        settings: Settings,
        identity: String,
        metrics: Metrics,
        objects: Store<Microservice>,
        leads: watch::Receiver<bool>,
        pod_monitors: watch::Receiver<bool>,
    ) -> Self {
        Self {
            children: Children::new(client.clone(), settings.namespace.clone()),
            secrets: Secrets::new(client.clone(), &settings.namespace),
            events: Events::new(client.clone(), identity),
            databases: Databases::default(),
            statuses: Statuses::default(),
            backoff: Backoff::default(),
            queue: Queue::default(),
            client,
            settings,
            objects,
            metrics,
            leads,
            pod_monitors,
        }
    }

    /// Waits until this replica leads. Others watch, and write nothing.
    async fn leading(&self) {
        // An error means that the process is about to end.
        if self.leads.clone().wait_for(|leads| *leads).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// What is the same for all objects, in the cluster as it is now.
    fn facts(&self) -> Facts {
        let mut facts = self.settings.facts.clone();
        facts.pod_monitor = facts.pod_monitor.filter(|_| *self.pod_monitors.borrow());
        facts
    }

    /// Counts an object that something changed about. One that is gone, as its children are on their way out, will not be
    /// looked at.
    fn triggered(&self, object: &ObjectRef<Microservice>) {
        if self.objects.get(object).is_some() {
            self.queue.triggered(&object.name);
        }
    }

    /// Forgets what was kept about an object that is gone.
    fn forget(&self, object: &Microservice) {
        let uid = object.uid().unwrap_or_default();
        self.databases.forget(&uid);
        self.statuses.forget(&uid);
        self.backoff.forget(&object.name_any());
        self.queue.forget(&object.name_any());
    }
}

/// A controller that has not begun.
pub(crate) struct Controller {
    context: Arc<Context>,
    writer: Writer<Microservice>,
    pod_monitors_found: watch::Sender<bool>,
}

impl Controller {
    /// # Errors
    /// Where two metrics have one name: a mistake in the code.
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
        context.metrics.watch_objects(context.objects.clone(), context.queue.clone())?;
        Ok(Self { context: Arc::new(context), writer, pod_monitors_found })
    }

    /// What the probes ask for.
    pub(crate) fn checks(&self) -> Checks {
        let (queue, objects) = (self.context.queue.clone(), self.context.objects.clone());
        Checks {
            live: Arc::new(move || queue.is_alive()),
            ready: Arc::new(move || match objects.wait_until_ready().now_or_never() {
                Some(_) => Ok(()),
                None => Err("the API server has not told the objects yet".into()),
            }),
        }
    }

    /// Looks at objects for as long as the process lives.
    pub(crate) async fn run(self) {
        let Self { context, writer, pod_monitors_found } = self;
        let triggers: SelectAll<_> = [
            watches::objects(&context, writer).boxed(),
            watches::children(&context).boxed(),
            watches::pod_monitors(&context, pod_monitors_found).boxed(),
        ]
        .into_iter()
        .collect();
        let seen = context.clone();
        let triggers = triggers.inspect(move |object| seen.triggered(object)).map(Ok::<_, Infallible>);
        let config = controller::Config::default().concurrency(context.settings.concurrency);
        let look = |object, context| reconcile::reconcile(object, context).boxed();
        let objects = context.objects.clone();
        let prepared = context.clone();
        let looks = controller::applier(look, retry, context, objects, triggers, config);
        let prepare = database::prepare_bundled(&prepared).then(|()| future::pending::<()>());
        tokio::select! {
            () = looks.for_each(|_| future::ready(())) => {}
            () = prepare => {}
        }
    }
}

/// After a look that could not even write what it found.
#[expect(clippy::needless_pass_by_value, reason = "the signature is the controller's")]
fn retry(object: Arc<Microservice>, error: &Error, context: Arc<Context>) -> Action {
    let wait = context.backoff.wait(&object.name_any(), "ApiServer");
    context.metrics.errors.inc();
    tracing::warn!(object = object.name_any(), error = error as &dyn std::error::Error, ?wait, "a look failed");
    Action::requeue(wait)
}

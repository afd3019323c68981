//! The state that all reconciles share.

use std::{collections::BTreeSet, time::Duration};

use api::Microservice;
use identity::IssuerConfig;
use kube::{
    Client,
    runtime::reflector::{ObjectRef, Store},
};
use tokio::sync::{Notify, watch};

use super::{
    backoff::Backoff,
    cache::{DatabaseCache, StatusCache},
    children::Children,
    cluster::Cluster,
    deploy::HeldDeployments,
    events::Events,
    observed::Observed,
    own_statuses::OwnStatuses,
    pods::PullErrors,
    queue::Queue,
    secrets::Secrets,
    servers::Servers,
    trust::Trust,
};
use crate::{
    manifests::{RenderInputs, names::CREDENTIALS_SUFFIX},
    metrics::Metrics,
};

/// The configuration of the operator.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The operator's own namespace, which is the only one it works in.
    pub(crate) namespace: String,
    /// Distinguishes its databases from those of other installations on the same server.
    pub(crate) installation: String,
    /// The Secret of the database server for objects that name none.
    pub(crate) database_server: String,
    /// Host and port of the bundled Postgres, which takes its superuser password from that Secret. The operator creates
    /// the Secret if it does not exist.
    pub(crate) bundled_server: Option<String>,
    /// Inputs of the manifests that are the same for all objects.
    pub(crate) inputs: RenderInputs,
    /// The issuers that services trust besides the cluster and the issuer of users.
    pub(crate) issuers: Vec<IssuerConfig>,
    /// The interval at which an object is reconciled although nothing changed, to find drift that no watch reports.
    pub(crate) resync: Duration,
    /// The number of objects reconciled concurrently.
    pub(crate) concurrency: u16,
    /// A digest of the configuration, as in the field `configuration` of objects that are meant for it.
    pub(crate) configuration: Option<String>,
}

/// The state that all reconciles share.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) settings: Settings,
    pub(crate) objects: Store<Microservice>,
    pub(crate) children: Children,
    pub(crate) held: HeldDeployments,
    pub(crate) observed: Observed,
    pub(crate) pull_errors: PullErrors,
    pub(crate) secrets: Secrets,
    pub(crate) cluster: Cluster,
    pub(crate) servers: Servers,
    pub(crate) trust: Trust,
    pub(crate) databases: DatabaseCache,
    pub(crate) statuses: StatusCache,
    pub(crate) own_statuses: OwnStatuses,
    pub(crate) events: Events,
    pub(crate) metrics: Metrics,
    pub(crate) backoff: Backoff,
    pub(crate) queue: Queue,
    /// The kinds of children that have been listed.
    pub(crate) listed: watch::Sender<BTreeSet<String>>,
    /// Whether the kind `PodMonitor` is installed.
    pub(crate) pod_monitors: watch::Receiver<bool>,
    /// Notified when a watch fails that shows whether it still is.
    pub(crate) pod_monitors_lost: Notify,
}

impl Context {
    pub(crate) fn new(
        client: Client,
        settings: Settings,
        identity: String,
        metrics: Metrics,
        objects: Store<Microservice>,
        pod_monitors: watch::Receiver<bool>,
    ) -> Self {
        let queue = Queue::default();
        Self {
            children: Children::new(client.clone(), settings.namespace.clone()),
            secrets: Secrets::new(client.clone(), &settings.namespace),
            cluster: Cluster::new(client.clone()),
            trust: Trust::default(),
            servers: Servers::new(settings.concurrency, queue.clone()),
            events: Events::new(client.clone(), identity),
            held: HeldDeployments::default(),
            observed: Observed::default(),
            pull_errors: PullErrors::default(),
            databases: DatabaseCache::default(),
            statuses: StatusCache::default(),
            own_statuses: OwnStatuses::default(),
            backoff: Backoff::default(),
            queue,
            listed: watch::Sender::default(),
            client,
            settings,
            objects,
            metrics,
            pod_monitors,
            pod_monitors_lost: Notify::default(),
        }
    }

    /// The inputs of the manifests that are the same for all objects, given what the cluster supports now.
    pub(crate) fn inputs(&self) -> RenderInputs {
        let mut inputs = self.settings.inputs.clone();
        inputs.pod_monitor = inputs.pod_monitor.filter(|_| *self.pod_monitors.borrow());
        inputs
    }

    /// Queues an object that changed. A deleted object, whose children are still being deleted, is not reconciled again.
    pub(crate) fn triggered(&self, object: &ObjectRef<Microservice>) {
        if self.objects.get(object).is_some() {
            self.queue.add(&object.name);
        }
    }

    /// Drops the state of a deleted object.
    pub(crate) fn forget(&self, name: &str, uid: &str) {
        self.databases.forget(uid);
        self.statuses.forget(uid);
        self.own_statuses.forget(uid);
        self.held.forget(uid);
        self.secrets.known.forget(&format!("{name}{CREDENTIALS_SUFFIX}"));
        self.backoff.forget(name);
        self.queue.forget(name);
    }
}

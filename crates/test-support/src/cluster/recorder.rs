//! Records every state of an object and of its Deployment, to check what the status said at any moment.

use std::time::{Duration, Instant};

use api::Microservice;
use futures_util::{StreamExt, future, stream};
use k8s_openapi::{api::apps::v1::Deployment, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use tokio::{sync::watch, task::JoinHandle};

use super::{Namespace, within};

/// How long a status may differ from what runs: the operator learns of a change after it has happened.
const LAG: Duration = Duration::from_secs(2);

/// The recorded states of one object and its Deployment.
pub struct Recorder {
    record: watch::Receiver<Record>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Record {
    /// How many of the two watches have delivered their list.
    lists: usize,
    moments: Vec<Moment>,
}

/// The states from one change to the next.
#[derive(Debug, Clone)]
pub struct Moment {
    /// When it began.
    pub at: Instant,
    /// The object, if it exists.
    pub object: Option<Microservice>,
    /// The Deployment of the object's name, if it exists.
    pub deployment: Option<Deployment>,
}

enum Change {
    Object(Option<Box<Microservice>>),
    Deployment(Option<Box<Deployment>>),
    Listed,
}

impl Namespace {
    /// Records all states of an object and of its Deployment from now on, until the result is dropped.
    pub async fn record(&self, name: &str) -> Recorder {
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let objects = watcher(self.api::<Microservice>(), config.clone()).default_backoff();
        let objects = objects.filter_map(|event| future::ready(change(event, Change::Object)));
        let deployments = watcher(self.api::<Deployment>(), config).default_backoff();
        let deployments = deployments.filter_map(|event| future::ready(change(event, Change::Deployment)));
        let (sender, mut record) = watch::channel(Record::default());
        let task = tokio::spawn(async move {
            let mut changes = Box::pin(stream::select(objects, deployments));
            let (mut object, mut deployment) = (None, None);
            while let Some(change) = changes.next().await {
                match change {
                    Change::Object(now) => object = now.map(|now| *now),
                    Change::Deployment(now) => deployment = now.map(|now| *now),
                    Change::Listed => sender.send_modify(|record| record.lists += 1),
                }
                let moment = Moment { at: Instant::now(), object: object.clone(), deployment: deployment.clone() };
                sender.send_modify(|record| record.moments.push(moment));
            }
        });
        within("the watches", record.wait_for(|record| record.lists >= 2)).await.expect("the task runs");
        Recorder { record, task }
    }
}

fn change<K>(event: watcher::Result<watcher::Event<K>>, of: impl FnOnce(Option<Box<K>>) -> Change) -> Option<Change> {
    match event.ok()? {
        watcher::Event::Apply(object) | watcher::Event::InitApply(object) => Some(of(Some(Box::new(object)))),
        watcher::Event::Delete(_) => Some(of(None)),
        watcher::Event::InitDone => Some(Change::Listed),
        watcher::Event::Init => None,
    }
}

impl Recorder {
    /// The number of moments so far, to check only later ones.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.record.borrow().moments.len()
    }

    /// All moments after a mark.
    #[must_use]
    pub fn since(&self, mark: usize) -> Vec<Moment> {
        self.record.borrow().moments[mark..].to_vec()
    }

    /// Asserts that a condition was at no moment after a mark true for the current generation.
    pub fn assert_never(&self, kind: &str, mark: usize) {
        let found = self.since(mark).into_iter().find(|moment| moment.claims(kind));
        assert!(found.is_none(), "{kind} was true: {:#?}", found.and_then(|moment| moment.object?.status));
    }

    /// Asserts that the status at no time contradicted the Deployment for longer than it takes to write it.
    pub fn assert_truthful(&self) {
        let moments = self.since(0);
        let ends = moments.iter().skip(1).map(|moment| moment.at).chain([Instant::now()]);
        let (mut lie, mut since) = (None, Instant::now());
        for (moment, end) in moments.iter().zip(ends) {
            let now = moment.contradiction();
            if now != lie {
                (lie, since) = (now, moment.at);
            }
            let lasted = end.duration_since(since);
            assert!(lie.is_none() || lasted < LAG, "{lie:?} was untrue for {lasted:?}: {moment:#?}");
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Moment {
    /// Whether the status says, for the current generation, that a condition is true.
    #[must_use]
    pub fn claims(&self, kind: &str) -> bool {
        let Some((object, status)) = self.object.as_ref().and_then(|object| Some((object, object.status.as_ref()?)))
        else {
            return false;
        };
        let holds = |condition: &Condition| is_true(condition, kind);
        Some(status.observed_generation) == object.metadata.generation && status.conditions.iter().any(holds)
    }

    /// What the status says of the Deployment that is untrue.
    fn contradiction(&self) -> Option<&'static str> {
        let object = self.object.as_ref()?;
        let status = object.status.as_ref().filter(|status| status.observed_generation >= 0)?;
        let is_owner = |live: &&Deployment| {
            live.owner_references().iter().any(|owner| Some(&owner.uid) == object.metadata.uid.as_ref())
        };
        let live = self.deployment.as_ref().filter(is_owner);
        let counts = live.and_then(|live| live.status.clone()).unwrap_or_default();
        let (replicas, ready) = (counts.replicas.unwrap_or(0), counts.ready_replicas.unwrap_or(0));
        let observed = counts.observed_generation == live.and_then(|live| live.metadata.generation);
        let rolled_out = observed
            && counts.updated_replicas.unwrap_or(0) == replicas
            && counts.available_replicas.unwrap_or(0) >= object.spec.scaling.min;
        let available = status.conditions.iter().any(|condition| is_true(condition, "Available"));
        [
            ("status.replicas", status.replicas != replicas),
            ("status.readyReplicas", status.ready_replicas != ready),
            ("Available", available != (ready > 0)),
            ("Ready", self.claims("Ready") && !rolled_out),
        ]
        .into_iter()
        .find_map(|(what, untrue)| untrue.then_some(what))
    }
}

fn is_true(condition: &Condition, kind: &str) -> bool {
    condition.type_ == kind && condition.status == "True"
}

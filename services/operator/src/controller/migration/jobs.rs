//! The migration Jobs of an object and their pods. At most one of them runs at any time.

use std::cmp::Reverse;

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition},
        core::v1::{ContainerStateTerminated, Pod},
        events::v1::Event,
    },
    jiff::{SignedDuration, Timestamp},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
};

use super::super::{
    conditions::ConditionResult,
    context::Context,
    error::{Error, with_timeout},
    existing::Claim,
    fields::MANAGER,
};
use crate::manifests::migration::{attempts, selector};
use api::{Microservice, annotations};

/// The reason of the events about pods that the Job controller could not create.
const REFUSED: &str = "FailedCreate";

/// The Jobs that exist.
pub(super) struct Jobs<'a> {
    api: Api<Job>,
    object: &'a Microservice,
    /// The last attempt of the specified migration.
    pub(super) last: Option<Job>,
    /// Earlier attempts, the migrations of other versions, and those of an earlier object of this name.
    others: Vec<Job>,
    pods: Vec<Pod>,
}

impl<'a> Jobs<'a> {
    /// Reads the Jobs of an object. `job` is the specified one.
    pub(super) async fn read(context: &Context, object: &'a Microservice, job: &Job) -> Result<Self, Error> {
        let namespace = &context.settings.namespace;
        let api: Api<Job> = Api::namespaced(context.client.clone(), namespace);
        let all_pods: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
        let of_object = ListParams::default().labels(&selector(object));
        let (jobs, pods) = tokio::try_join!(
            with_timeout("list the migration Jobs", api.list(&of_object)),
            with_timeout("list the pods of the migrations", all_pods.list(&of_object)),
        )?;
        let (mut attempts, mut others) = (Vec::new(), Vec::new());
        for found in jobs.items.into_iter().filter(|found| belongs_to(found, object)) {
            let is_attempt = Claim::of(&found.metadata, object) == Claim::Controlled
                && found.annotations().get(annotations::MIGRATION) == job.annotations().get(annotations::MIGRATION)
                && found.metadata.deletion_timestamp.is_none();
            if is_attempt { attempts.push(found) } else { others.push(found) }
        }
        // An attempt is only created once the one before has ended.
        attempts.sort_by_key(|attempt| (has_ended(attempt), Reverse(attempt.metadata.creation_timestamp.clone())));
        let mut attempts = attempts.into_iter();
        let last = attempts.next();
        others.extend(attempts);
        let mut pods = pods.items;
        pods.sort_by_key(|pod| pod.metadata.creation_timestamp.clone());
        Ok(Self { api, object, last, others, pods })
    }

    /// Deletes all Jobs but the last attempt. A Job that runs is gone only when its pods are.
    pub(super) async fn delete_others(&self) -> Result<(), Error> {
        for job in self.others.iter().filter(|job| job.metadata.deletion_timestamp.is_none()) {
            let preconditions = Some(Preconditions { uid: job.uid(), resource_version: None });
            let parameters = DeleteParams { preconditions, ..DeleteParams::foreground() };
            match with_timeout("delete a migration Job", self.api.delete(&job.name_any(), &parameters)).await {
                Err(error) if !error.is_gone() => return Err(error),
                _ => tracing::info!(job = job.name_any(), "migration Job deleted"),
            }
        }
        Ok(())
    }

    /// Starts the migration, or says what it waits for. `failure` is how the attempt before failed.
    pub(super) async fn start(&self, job: &Job, failure: Option<String>) -> Result<ConditionResult, Error> {
        if let Some(running) = self.running() {
            return Ok(ConditionResult::pending("Migrating", format!("waiting until {running} has stopped")));
        }
        let taken: Vec<String> = self.last.iter().chain(&self.others).map(ResourceExt::name_any).collect();
        let Some(name) = attempts(&job.name_any()).find(|name| !taken.contains(name)) else {
            return Ok(ConditionResult::pending("Migrating", "waiting until earlier migration Jobs are deleted"));
        };
        let mut job = job.clone();
        job.metadata.name = Some(name.clone());
        if let Some(failure) = failure {
            job.annotations_mut().insert(annotations::MIGRATION_FAILURE.to_owned(), failure);
        }
        let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        match with_timeout("create the migration Job", self.api.create(&parameters, &job)).await {
            Err(error) if error.is_conflict() => self.check_owner(&name).await?,
            result => drop(result?),
        }
        Ok(ConditionResult::pending("Migrating", "the migration is starting"))
    }

    /// The pods of the last attempt.
    pub(super) fn pods(&self) -> impl DoubleEndedIterator<Item = &Pod> {
        let uid = self.last.as_ref().and_then(ResourceExt::uid);
        self.pods.iter().filter(move |pod| pod.labels().get("batch.kubernetes.io/controller-uid") == uid.as_ref())
    }

    /// How the last pod of the last attempt that has ended did so.
    pub(super) fn ended(&self) -> Option<&ContainerStateTerminated> {
        self.pods().rev().find_map(terminated)
    }

    /// Whether the last attempt has ever had a pod.
    pub(super) fn has_run(&self) -> bool {
        let status = self.last.as_ref().and_then(|last| last.status.as_ref());
        self.pods().next().is_some() || status.and_then(|status| status.failed).unwrap_or(0) > 0
    }

    /// For how long the last attempt, which has no pod, has had none.
    pub(super) fn idle_for(&self, now: Timestamp) -> SignedDuration {
        self.idle_since().map_or(SignedDuration::ZERO, |since| now.duration_since(since))
    }

    /// Why no pod of the last attempt can be created, if the API server refuses it. The Job controller says that in
    /// events alone.
    pub(super) async fn refusal(&self, context: &Context) -> Result<Option<String>, Error> {
        let (Some(uid), Some(since)) = (self.last.as_ref().and_then(ResourceExt::uid), self.idle_since()) else {
            return Ok(None);
        };
        let api: Api<Event> = Api::namespaced(context.client.clone(), &context.settings.namespace);
        let of_job = ListParams::default().fields(&format!("regarding.uid={uid},reason={REFUSED}"));
        let events = with_timeout("list the events of the migration Job", api.list(&of_job)).await?;
        let is_refusal = |event: &Event| {
            let regarding = event.regarding.as_ref().and_then(|regarding| regarding.uid.as_ref());
            regarding == Some(&uid) && event.reason.as_deref() == Some(REFUSED)
        };
        let refusals = events.iter().filter(|event| is_refusal(event) && last_seen(event) >= Some(since));
        let note = refusals.max_by_key(|event| last_seen(event)).map(|event| event.note.as_deref().unwrap_or_default());
        // Similar events are combined into one.
        let prefixes = ["(combined from similar events): ", "Error creating: "];
        Ok(note.map(|note| {
            prefixes.iter().fold(note, |note, prefix| note.strip_prefix(prefix).unwrap_or(note)).to_owned()
        }))
    }

    /// Since when the last attempt has had no pod, if it has none.
    fn idle_since(&self) -> Option<Timestamp> {
        let last = self.last.as_ref()?;
        let ended = self.ended().and_then(|ended| ended.finished_at.as_ref());
        let started = last.status.as_ref().and_then(|status| status.start_time.as_ref());
        ended.or(started).or(last.metadata.creation_timestamp.as_ref()).map(|time| time.0)
    }

    /// What still runs, apart from the last attempt.
    fn running(&self) -> Option<String> {
        let job = self.others.iter().find(|job| !has_ended(job));
        let job = job.map(|job| format!("the migration Job {}", job.name_any()));
        // A Job may be gone before its pods are, if someone else deletes it.
        let mut pods = self.pods.iter().filter(|pod| !is_over(pod));
        job.or_else(|| pods.next().map(|pod| format!("pod {} of an earlier migration", pod.name_any())))
    }

    /// A Job of that name exists: it was created meanwhile, and the next reconcile finds it, or it is something else's.
    async fn check_owner(&self, name: &str) -> Result<(), Error> {
        match with_timeout("read the migration Job", self.api.get_opt(name)).await? {
            Some(found) if !belongs_to(&found, self.object) => {
                Err(Error::Conflict { kind: "Job".to_owned(), name: name.to_owned() })
            }
            _ => Ok(()),
        }
    }
}

/// A condition of a Job that is true.
pub(super) fn condition<'a>(job: &'a Job, kind: &str) -> Option<&'a JobCondition> {
    let mut conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.find(|condition| condition.type_ == kind && condition.status == "True")
}

/// How the container of a Job's pod terminated.
pub(super) fn terminated(pod: &Pod) -> Option<&ContainerStateTerminated> {
    let containers = pod.status.as_ref()?.container_statuses.iter().flatten();
    containers.into_iter().find_map(|container| container.state.as_ref()?.terminated.as_ref())
}

/// Why a Job creates no pods, if someone changed it so.
pub(super) fn suspension(job: &Job) -> Option<&'static str> {
    let spec = job.spec.as_ref()?;
    if spec.suspend == Some(true) {
        Some("spec.suspend is true")
    } else {
        (spec.parallelism == Some(0)).then_some("spec.parallelism is 0")
    }
}

/// Whether the containers of a pod run.
pub(super) fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

/// When the cause of an event was last seen.
fn last_seen(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().map(|series| series.last_observed_time.0);
    let last = event.deprecated_last_timestamp.as_ref().map(|time| time.0);
    series.or(last).or(event.event_time.as_ref().map(|time| time.0))
}

fn has_ended(job: &Job) -> bool {
    condition(job, "Complete").or_else(|| condition(job, "Failed")).is_some()
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether a Job is of the object or of an earlier one of its name.
fn belongs_to(job: &Job, object: &Microservice) -> bool {
    Claim::of(&job.metadata, object) != Claim::Foreign
}

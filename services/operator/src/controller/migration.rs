//! The gate before a new version: its migration has succeeded.

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        batch::v1::{Job, JobCondition},
        core::v1::{ContainerStateTerminated, Pod},
    },
    jiff::{SignedDuration, Timestamp},
};
use kube::{
    Api, ResourceExt,
    api::{ApiResource, ListParams, PostParams},
};

use super::{
    Context,
    children::owner_of,
    conditions::Finding,
    database::Usable,
    error::{Error, within},
    pods,
};
use crate::manifests::MIGRATION;
use api::Microservice;

/// How long a failed migration is left for a person to look at, before it is tried again by itself: what was in its way
/// may be gone.
const RETRY: SignedDuration = SignedDuration::from_secs(120);

/// The exit status of a migration that could not reach its database (`EX_TEMPFAIL` of sysexits.h).
const UNREACHABLE: i32 = 75;

/// Where the migration of the version asked for stands.
pub(crate) struct Migration {
    pub(crate) finding: Finding,
    /// What it brought the schema to, where that was learnt now.
    pub(crate) schema_version: Option<i64>,
}

impl From<Finding> for Migration {
    fn from(finding: Finding) -> Self {
        Self { finding, schema_version: None }
    }
}

/// Runs `job` where it has not succeeded yet.
pub(crate) async fn gate(
    context: &Context,
    object: &Microservice,
    job: &Job,
    deployment: Option<&Deployment>,
    usable: Option<&Usable>,
) -> Migration {
    let before = context.statuses.last(object).and_then(|status| status.database?.schema_version);
    let Some(usable) = usable else {
        let finding = Finding::pending("DatabaseMissing", "waits for the database");
        return Migration { finding, schema_version: before };
    };
    let owner = object.uid().unwrap_or_default();
    // As after a restore of an older state.
    let is_behind = usable.schema_version.is_some_and(|live| before.is_some_and(|before| live < before));
    let behind = is_behind.then_some(usable.looked_at);
    let mut migration =
        look(context, &owner, job, deployment, behind).await.unwrap_or_else(|error| error.finding().into());
    match migration.schema_version {
        // What is known of the database is older than this.
        Some(version) if usable.schema_version != Some(version) => context.databases.forget(&owner),
        Some(_) => {}
        // Its last words were missed, or not understood: what is found in the database is as good.
        None => migration.schema_version = before.or(usable.schema_version.filter(|version| *version > 0)),
    }
    migration
}

async fn look(
    context: &Context,
    owner: &str,
    job: &Job,
    deployment: Option<&Deployment>,
    behind: Option<Timestamp>,
) -> Result<Migration, Error> {
    let hash = job.annotations().get(MIGRATION);
    let template = deployment.and_then(|deployment| deployment.spec.as_ref()?.template.metadata.as_ref());
    let done = template.and_then(|metadata| metadata.annotations.as_ref()?.get(MIGRATION));
    if behind.is_none() && hash.is_some() && hash == done {
        return Ok(Finding::good("Migrated", "the schema is up to date").into());
    }
    let api: Api<Job> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    let Some(there) = within("reading the migration", api.get_opt(&job.name_any())).await? else {
        return start(&api, job).await.map(Migration::from);
    };
    if owner_of(&there.metadata).as_deref() != Some(owner) {
        return Err(Error::Taken { kind: "Job".to_owned(), name: there.name_any() });
    }
    if there.metadata.deletion_timestamp.is_some() {
        return Ok(Finding::pending("Migrating", "the migration before is being cleared away").into());
    }
    let ended = |kind: &str| {
        let mut conditions = there.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.find(|condition| condition.type_ == kind && condition.status == "True")
    };
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    let selector = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={}", there.name_any()));
    let mut pods = within("reading the migration's pods", pods.list(&selector)).await?.items;
    pods.sort_by_key(|pod| pod.metadata.creation_timestamp.clone());
    let last = pods.iter().rev().find_map(terminated);

    if let Some(complete) = ended("Complete") {
        // One that ended since then may have been what was missing.
        if behind.is_some_and(|seen| complete.last_transition_time.as_ref().is_some_and(|time| time.0 < seen)) {
            delete(context, &there).await?;
            return Ok(Finding::pending("Migrating", "the schema is older than it was: it is migrated again").into());
        }
        let schema_version = last.and_then(|ended| schema_version(ended.message.as_deref()?));
        return Ok(Migration { finding: Finding::good("Migrated", "the schema is up to date"), schema_version });
    }
    if let Some(failed) = ended("Failed") {
        if is_over(failed) {
            delete(context, &there).await?;
        }
        let cause = last.map(pods::describe).or_else(|| failed.message.clone()).unwrap_or_default();
        return Ok(if last.is_some_and(|ended| ended.exit_code == UNREACHABLE) {
            Finding::pending("ServerUnreachable", format!("the migration cannot reach the database: {cause}"))
        } else {
            Finding::wrong("MigrationFailed", format!("the migration failed: {cause}"))
        }
        .into());
    }
    let unfinished: Vec<Pod> = pods.iter().filter(|pod| terminated(pod).is_none()).cloned().collect();
    if let Some(trouble) = pods::trouble(&unfinished, Timestamp::now()) {
        return Ok(trouble.into());
    }
    Ok(match last {
        Some(ended) => {
            Finding::pending("Migrating", format!("the migration is tried again; last: {}", pods::describe(ended)))
        }
        None => Finding::pending("Migrating", "the migration is running"),
    }
    .into())
}

async fn start(api: &Api<Job>, job: &Job) -> Result<Finding, Error> {
    match within("starting the migration", api.create(&PostParams::default(), job)).await {
        // Made meanwhile: the next look finds it.
        Err(error) if error.is_conflict() => {}
        result => drop(result?),
    }
    Ok(Finding::pending("Migrating", "the migration is starting"))
}

async fn delete(context: &Context, job: &Job) -> Result<(), Error> {
    context.children.delete(&ApiResource::erase::<Job>(&()), &job.name_any(), job.uid()).await
}

/// Whether a Job ended long enough ago.
fn is_over(condition: &JobCondition) -> bool {
    condition.last_transition_time.as_ref().is_some_and(|time| Timestamp::now().duration_since(time.0) > RETRY)
}

/// How a pod of a Job ended.
fn terminated(pod: &Pod) -> Option<&ContainerStateTerminated> {
    let containers = pod.status.as_ref()?.container_statuses.iter().flatten();
    containers.into_iter().find_map(|container| container.state.as_ref()?.terminated.as_ref())
}

/// The version that a migration wrote as its last words: `{"schemaVersion": N}`.
fn schema_version(message: &str) -> Option<i64> {
    serde_json::from_str::<serde_json::Value>(message.trim()).ok()?.get("schemaVersion")?.as_i64()
}

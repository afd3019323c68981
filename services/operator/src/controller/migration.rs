//! Runs the migration of a new version, which must succeed before the version is rolled out.

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
use runtime::migration::{Migrated, UNREACHABLE};

use super::{
    conditions::ConditionResult,
    context::Context,
    database::ReadyDatabase,
    error::{Error, with_timeout},
    existing::Claim,
    pods,
};
use api::{Microservice, annotations::MIGRATION};

/// How long a failed Job is kept for inspection before the migration is retried.
const RETRY_AFTER: SignedDuration = SignedDuration::from_secs(120);

/// The state of the migration to the specified version.
pub(crate) struct Migration {
    pub(crate) result: ConditionResult,
    /// The schema version, if known.
    pub(crate) schema_version: Option<i64>,
}

impl From<ConditionResult> for Migration {
    fn from(result: ConditionResult) -> Self {
        Self { result, schema_version: None }
    }
}

/// Runs `job` unless it has succeeded already.
pub(crate) async fn ensure(
    context: &Context,
    object: &Microservice,
    job: &Job,
    deployment: Option<&Deployment>,
    ready_database: Option<&ReadyDatabase>,
) -> Migration {
    let before = context.statuses.last(object).and_then(|status| status.database?.schema_version);
    let Some(ready_database) = ready_database else {
        let result =
            ConditionResult::pending("DatabaseMissing", "waiting for the database; see the condition DatabaseReady");
        return Migration { result, schema_version: before };
    };
    let uid = object.uid().unwrap_or_default();
    // The schema is older than at the last reconcile, for example after a restore.
    let is_behind = ready_database.schema_version.is_some_and(|live| before.is_some_and(|before| live < before));
    let behind = is_behind.then_some(ready_database.verified_at);
    let mut migration =
        run(context, object, job, deployment, behind).await.unwrap_or_else(|error| error.result().into());
    match migration.schema_version {
        // The cached version is outdated.
        Some(version) if ready_database.schema_version != Some(version) => context.databases.forget(&uid),
        Some(_) => {}
        // The termination message is missing or malformed, so use the version found in the database.
        None => migration.schema_version = before.or(ready_database.schema_version.filter(|version| *version > 0)),
    }
    migration
}

async fn run(
    context: &Context,
    object: &Microservice,
    job: &Job,
    deployment: Option<&Deployment>,
    behind: Option<Timestamp>,
) -> Result<Migration, Error> {
    let hash = job.annotations().get(MIGRATION);
    let template = deployment.and_then(|deployment| deployment.spec.as_ref()?.template.metadata.as_ref());
    let done = template.and_then(|metadata| metadata.annotations.as_ref()?.get(MIGRATION));
    if behind.is_none() && hash.is_some() && hash == done {
        return Ok(ConditionResult::ready("Migrated", "the schema is up to date").into());
    }
    let api: Api<Job> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    let Some(found) = with_timeout("read the migration Job", api.get_opt(&job.name_any())).await? else {
        return start(&api, job).await.map(Migration::from);
    };
    Claim::of(&found.metadata, object).check("Job", &found.name_any())?;
    if found.metadata.deletion_timestamp.is_some() {
        return Ok(ConditionResult::pending("Migrating", "waiting for the previous migration Job to be deleted").into());
    }
    let ended = |kind: &str| {
        let mut conditions = found.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.find(|condition| condition.type_ == kind && condition.status == "True")
    };
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    let selector = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={}", found.name_any()));
    let mut pods = with_timeout("list the pods of the migration", pods.list(&selector)).await?.items;
    pods.sort_by_key(|pod| pod.metadata.creation_timestamp.clone());
    let last = pods.iter().rev().find_map(terminated);

    if let Some(complete) = ended("Complete") {
        // A Job that completed after the schema was read may have migrated it already.
        if behind.is_some_and(|seen| complete.last_transition_time.as_ref().is_some_and(|time| time.0 < seen)) {
            delete(context, &found).await?;
            return Ok(ConditionResult::pending(
                "Migrating",
                "the schema is older than at the last reconcile; running the migration again",
            )
            .into());
        }
        let schema_version = last.and_then(|ended| schema_version(ended.message.as_deref()?));
        return Ok(Migration {
            result: ConditionResult::ready("Migrated", "the schema is up to date"),
            schema_version,
        });
    }
    if let Some(failed) = ended("Failed") {
        if is_due(failed) {
            delete(context, &found).await?;
        }
        let cause = last.map(pods::describe).or_else(|| failed.message.clone()).unwrap_or_default();
        return Ok(if last.is_some_and(|ended| ended.exit_code == i32::from(UNREACHABLE)) {
            ConditionResult::pending(
                "ServerUnreachable",
                format!("the migration cannot reach the database and will be retried: {cause}"),
            )
        } else {
            ConditionResult::stalled("MigrationFailed", format!("the migration failed: {cause}"))
        }
        .into());
    }
    let unfinished: Vec<Pod> = pods.iter().filter(|pod| terminated(pod).is_none()).cloned().collect();
    if let Some(problem) = pods::problem(&unfinished, Timestamp::now()) {
        return Ok(problem.into());
    }
    Ok(match last {
        Some(ended) => ConditionResult::pending(
            "Migrating",
            format!("retrying the migration, which last ended with {}", pods::describe(ended)),
        ),
        None => ConditionResult::pending("Migrating", "the migration is running"),
    }
    .into())
}

async fn start(api: &Api<Job>, job: &Job) -> Result<ConditionResult, Error> {
    match with_timeout("create the migration Job", api.create(&PostParams::default(), job)).await {
        // It was created meanwhile, and the next reconcile finds it.
        Err(error) if error.is_conflict() => {}
        result => drop(result?),
    }
    Ok(ConditionResult::pending("Migrating", "the migration is starting"))
}

async fn delete(context: &Context, job: &Job) -> Result<(), Error> {
    context.children.delete(&ApiResource::erase::<Job>(&()), &job.name_any(), job.uid()).await
}

/// Whether a Job failed long enough ago to be retried.
fn is_due(condition: &JobCondition) -> bool {
    condition.last_transition_time.as_ref().is_some_and(|time| Timestamp::now().duration_since(time.0) > RETRY_AFTER)
}

/// How the container of a Job's pod terminated.
fn terminated(pod: &Pod) -> Option<&ContainerStateTerminated> {
    let containers = pod.status.as_ref()?.container_statuses.iter().flatten();
    containers.into_iter().find_map(|container| container.state.as_ref()?.terminated.as_ref())
}

/// The version in the termination message of a migration.
fn schema_version(message: &str) -> Option<i64> {
    serde_json::from_str::<Migrated>(message.trim()).ok().map(|migrated| migrated.schema_version)
}

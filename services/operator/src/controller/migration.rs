//! Runs the migration of a new version, which must succeed before the version is rolled out.
//!
//! At most one migration of an object runs at any time: that of another version is stopped first. A Job that failed is
//! kept until the migration is tried again, by another Job that carries the failure along. So the object stays stalled
//! until an attempt succeeds or another migration is specified.

mod jobs;

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        batch::v1::{Job, JobCondition},
        core::v1::Pod,
    },
    jiff::{SignedDuration, Timestamp},
};
use kube::ResourceExt;
use runtime::migration::{Migrated, UNREACHABLE};

use super::{
    conditions::ConditionResult,
    context::Context,
    database::{self, ReadyDatabase},
    error::Error,
    pods,
};
use crate::manifests::migration::attempts;
use api::{Microservice, annotations};
use jobs::{Jobs, condition, terminated};

/// After this time, a migration that failed is tried again.
const RETRY_AFTER: SignedDuration = SignedDuration::from_mins(10);
/// The same for a migration that could not reach the database or did not start.
const RETRY_UNSTARTED_AFTER: SignedDuration = SignedDuration::from_mins(2);

/// After this time, it matters why a Job has no pod.
const PODS_AFTER: SignedDuration = SignedDuration::from_secs(5);

const FAILED: &str = "MigrationFailed";

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
        let missing =
            ConditionResult::pending("DatabaseMissing", "waiting for the database; see the condition DatabaseReady");
        return Migration { result: known_failure(context, object).unwrap_or(missing), schema_version: before };
    };
    // The schema is older than at the last reconcile, for example after a restore.
    let is_behind = ready_database.schema_version.is_some_and(|live| before.is_some_and(|before| live < before));
    let mut migration =
        run(context, object, job, deployment, ready_database, is_behind).await.unwrap_or_else(|error| {
            match error.result() {
                result @ ConditionResult::Stalled(..) => result,
                result => known_failure(context, object).unwrap_or(result),
            }
            .into()
        });
    if migration.schema_version.is_none() {
        migration.schema_version = before.or(ready_database.schema_version.filter(|version| *version > 0));
    }
    migration
}

async fn run(
    context: &Context,
    object: &Microservice,
    job: &Job,
    deployment: Option<&Deployment>,
    database: &ReadyDatabase,
    is_behind: bool,
) -> Result<Migration, Error> {
    let migrated = || ConditionResult::ready("Migrated", "the schema is up to date");
    let hash = job.annotations().get(annotations::MIGRATION);
    let template = deployment.and_then(|deployment| deployment.spec.as_ref()?.template.metadata.as_ref());
    let done = template.and_then(|metadata| metadata.annotations.as_ref()?.get(annotations::MIGRATION));
    let is_done = !is_behind && hash.is_some() && hash == done;
    if is_done && !has_others(context, object, job) {
        return Ok(migrated().into());
    }
    let jobs = Jobs::read(context, object, job).await?;
    jobs.delete_others().await?;
    if is_done {
        return Ok(migrated().into());
    }
    let Some(last) = &jobs.last else {
        return jobs.start(job, None).await.map(Migration::from);
    };
    if let Some(complete) = condition(last, "Complete") {
        // Times of the API server are full seconds.
        let second = |time: Timestamp| time.as_second();
        let ended = complete.last_transition_time.as_ref().map(|time| second(time.0));
        // A Job that completed after the schema was read may have migrated it already.
        let is_newer_than_read = ended.is_none_or(|ended| ended >= second(database.verified_at));
        if is_behind && !is_newer_than_read {
            tracing::info!(object = object.name_any(), "the schema is older than before; running the migration again");
            return jobs.start(job, None).await.map(Migration::from);
        }
        let found = if is_newer_than_read { read_again(context, object).await } else { database.schema_version };
        // What the database says comes first: only that can be compared with what it says later.
        let schema_version = found.or_else(|| reported(jobs.ended()?.message.as_deref()?));
        return Ok(Migration { result: migrated(), schema_version });
    }
    let failure_before = last.annotations().get(annotations::MIGRATION_FAILURE);
    if let Some(failed) = condition(last, "Failed") {
        return fail(context, &jobs, job, failed, failure_before).await.map(Migration::from);
    }
    if let Some(failure) = failure_before {
        return Ok(ConditionResult::stalled(FAILED, failure).into());
    }
    Ok(progress(context, &jobs, last).await.into())
}

/// The result of a Job that failed. Tries it again once that is due.
async fn fail(
    context: &Context,
    jobs: &Jobs<'_>,
    job: &Job,
    failed: &JobCondition,
    failure_before: Option<&String>,
) -> Result<ConditionResult, Error> {
    let ended = jobs.ended();
    let refusal = if jobs.has_run() { None } else { jobs.refusal(context).await? };
    let cause = ended.map(pods::describe).or_else(|| failed.message.clone()).unwrap_or_default();
    let is_unreachable = ended.is_some_and(|ended| ended.exit_code == i32::from(UNREACHABLE));
    let has_run = !is_unreachable && refusal.is_none();
    let failure = has_run.then(|| format!("the migration failed: {cause}"));
    // That it could not run now is no news of the failure before.
    let failure = failure.or_else(|| failure_before.cloned());
    let wait = if is_unreachable || ended.is_none() { RETRY_UNSTARTED_AFTER } else { RETRY_AFTER };
    if failed.last_transition_time.as_ref().is_some_and(|time| Timestamp::now().duration_since(time.0) > wait) {
        jobs.start(job, failure.clone()).await?;
    }
    Ok(match (failure, refusal) {
        (Some(failure), _) => ConditionResult::stalled(FAILED, failure),
        (None, Some(message)) => pods::refused(&message),
        (None, None) => ConditionResult::pending(
            "ServerUnreachable",
            format!("the migration cannot reach the database and will be retried: {cause}"),
        ),
    })
}

/// The result of a Job that runs for the first time.
async fn progress(context: &Context, jobs: &Jobs<'_>, last: &Job) -> ConditionResult {
    let name = last.name_any();
    if let Some(field) = jobs::suspension(last) {
        let message = format!("the migration does not run: {field} of Job {name}. Delete the Job to start it again");
        return ConditionResult::pending("MigrationSuspended", message);
    }
    let (now, ended) = (Timestamp::now(), jobs.ended());
    let migrating = |message: &str| ConditionResult::pending("Migrating", message);
    let unfinished: Vec<Pod> = jobs.pods().filter(|pod| terminated(pod).is_none()).cloned().collect();
    if let Some(problem) = pods::problem(&unfinished, &context.pull_errors, now) {
        return problem;
    }
    if ended.is_some_and(|ended| ended.exit_code == 0) {
        return migrating("the migration is finishing");
    }
    let is_overdue = unfinished.is_empty() && jobs.idle_for(now) >= PODS_AFTER;
    if is_overdue {
        match jobs.refusal(context).await {
            Ok(Some(message)) => return pods::refused(&message),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot tell why a migration has no pod");
            }
        }
    }
    match ended {
        Some(ended) => migrating(&format!("retrying the migration, which last ended with {}", pods::describe(ended))),
        None if unfinished.iter().any(jobs::is_running) => migrating("the migration is running"),
        None if is_overdue => {
            migrating(&format!("Job {name} has no pod yet; `kubectl describe job {name}` shows what it waits for"))
        }
        None => migrating("the migration is starting"),
    }
}

/// The failure in the status, if it is of this specification. It stands while nothing better is known.
fn known_failure(context: &Context, object: &Microservice) -> Option<ConditionResult> {
    let status = context.statuses.last(object)?;
    let mut conditions = status.conditions.into_iter();
    let failed = conditions.find(|condition| condition.type_ == "Migrated" && condition.reason == FAILED)?;
    let is_current = failed.observed_generation == object.metadata.generation;
    is_current.then(|| ConditionResult::stalled(FAILED, failed.message))
}

/// Whether the object has migration Jobs that are not of the specified migration.
fn has_others(context: &Context, object: &Microservice, job: &Job) -> bool {
    let attempts: Vec<String> = attempts(&job.name_any()).collect();
    let known = context.children.jobs(object);
    known.iter().any(|name| !attempts.contains(name))
}

/// The schema version that the database has now, after a migration.
async fn read_again(context: &Context, object: &Microservice) -> Option<i64> {
    context.databases.forget(&object.uid().unwrap_or_default());
    let spec = object.spec.database.as_ref()?;
    let (_, ready_database) = Box::pin(database::ensure(context, object, spec)).await;
    ready_database?.schema_version
}

/// The version in the termination message of a migration.
fn reported(message: &str) -> Option<i64> {
    serde_json::from_str::<Migrated>(message.trim()).ok().map(|migrated| migrated.schema_version)
}

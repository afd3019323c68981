//! Deletion of an object: under `deletionPolicy: Delete` its database is dropped first.
//!
//! A database that cannot be dropped holds the object, and the status says why. It never holds a namespace that is being
//! deleted, because the operator goes with that.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use k8s_openapi::{api::core::v1::Namespace, jiff::Timestamp};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use tokio::time::{self, Instant};

use super::{
    conditions::{ConditionResult, ConditionResults},
    context::Context,
    database, deploy,
    error::{Error, with_timeout},
    queue::Action,
    servers,
    status::{self, Outcome},
};
use crate::manifests::names;
use api::{DeletionPolicy, Microservice, finalizers};

const NOT_DROPPED: &str = "DatabaseNotDropped";

/// How long dropping a database is tried in a namespace that is being deleted.
const LAST_TRIES: Duration = Duration::from_secs(30);
/// The limit for dropping all databases when the operator itself is stopped: its pod has 30 s, and its Lease lasts less.
const LAST_TRY: Duration = Duration::from_secs(5);
/// How many objects are released at the same time then. Most of them wait for their server, which may be one that hangs.
const CONCURRENCY: usize = 256;
/// How often the finalizer is written to an object that others change at the same time.
const ATTEMPTS: usize = 5;

/// Sets or removes the finalizer according to the deletion policy, before anything is created that it protects. Returns
/// the object, or `None` if it was deleted meanwhile.
pub(crate) async fn prepare(
    mut object: Arc<Microservice>,
    context: &Context,
) -> Result<Option<Arc<Microservice>>, Error> {
    while must_drop(&object) != has_finalizer(&object) {
        match set_finalizer(&object, context, must_drop(&object)).await? {
            Some(written) => object = Arc::new(written),
            None => return Ok(None),
        }
    }
    Ok(Some(object))
}

/// Drops the database of an object that is being deleted if its policy says so, then removes the finalizer.
pub(crate) async fn finalize(object: &Microservice, context: &Context) -> Result<Action, Error> {
    if !has_finalizer(object) {
        // Those of Kubernetes itself are removed by it.
        let others =
            object.finalizers().iter().filter(|name| !["foregroundDeletion", "orphan"].contains(&name.as_str()));
        let held_by = others.map(String::as_str).collect::<Vec<_>>().join(", ");
        if !held_by.is_empty() {
            let message =
                format!("the object is being deleted, and exists until its finalizers are removed: {held_by}");
            report(object, context, None, ConditionResult::pending("Deleting", message)).await?;
            return Ok(Action::requeue(context.settings.resync));
        }
        return Ok(Action::await_change());
    }
    if let Err(result) = drop_database(object, context, false).await {
        let is_overdue = age_of_deletion(object) >= LAST_TRIES;
        if !(is_overdue && is_namespace_terminating(context).await) {
            // An object that waits for others gets its turn once they have left the server.
            if result.text().0 != servers::BUSY {
                report_database(object, context, result).await?;
            }
            return Ok(Action::requeue(context.backoff.wait(&object.name_any(), NOT_DROPPED)));
        }
        keep_database(object, &result);
    }
    set_finalizer(object, context, false).await?;
    Ok(Action::await_change())
}

/// Removes the finalizers of all objects if the namespace is being deleted, after one try to drop their databases. It is
/// for when the operator is stopped: Kubernetes deletes the pods of a namespace before anything else, so no operator
/// will be left to do it.
pub(crate) async fn release_all(context: &Context) {
    if !is_namespace_terminating(context).await {
        return;
    }
    let api: Api<Microservice> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    let objects = match with_timeout("list the objects", api.list(&ListParams::default())).await {
        Ok(objects) => objects.items,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot release the objects of the namespace");
            return;
        }
    };
    let held = stream::iter(objects.into_iter().filter(has_finalizer));
    let deadline = Instant::now() + LAST_TRY;
    held.for_each_concurrent(CONCURRENCY, |object| release(object, context, deadline)).await;
}

async fn release(object: Microservice, context: &Context, deadline: Instant) {
    let name = object.name_any();
    match time::timeout_at(deadline, drop_database(&object, context, true)).await {
        Ok(Ok(())) => {}
        Ok(Err(result)) => keep_database(&object, &result),
        Err(_) => keep_database(&object, &ConditionResult::pending(NOT_DROPPED, "it took too long")),
    }
    if let Err(error) = set_finalizer(&object, context, false).await {
        tracing::warn!(object = name, error = &error as &dyn std::error::Error, "cannot release the object");
    }
}

async fn drop_database(object: &Microservice, context: &Context, is_last_try: bool) -> Result<(), ConditionResult> {
    match &object.spec.database {
        Some(spec) if must_drop(object) => database::remove(context, object, spec, is_last_try).await,
        _ => Ok(()),
    }
}

/// Says in the status why the database holds the object.
async fn report_database(object: &Microservice, context: &Context, result: ConditionResult) -> Result<(), Error> {
    let Some(spec) = &object.spec.database else { return Ok(()) };
    let message = format!(
        "database {} cannot be dropped: {}. To delete the object and keep the database, set \
         spec.database.deletionPolicy to Retain",
        names::database(object, spec),
        result.text().1.trim_end_matches('.')
    );
    let found = match result {
        ConditionResult::Stalled(..) => ConditionResult::stalled(NOT_DROPPED, message),
        _ => ConditionResult::pending(NOT_DROPPED, message),
    };
    report(object, context, Some(found), ConditionResult::ready("RolledOut", "")).await
}

/// Says in the status why the object still exists.
async fn report(
    object: &Microservice,
    context: &Context,
    database: Option<ConditionResult>,
    rollout: ConditionResult,
) -> Result<(), Error> {
    // The pods run until the object is gone.
    let observed = deploy::observe(context, object, deploy::read(context, object).await, false).await;
    let results = ConditionResults { database, ..ConditionResults::of_pods(observed.available, rollout) };
    // What else was last known stays.
    let outcome =
        Outcome { results, running: observed.running, schema_version: None, system_identifier: None, port: None };
    status::write(context, object, &outcome).await
}

/// Logs that the database stays. The API server takes no events in a namespace that is being deleted.
fn keep_database(object: &Microservice, result: &ConditionResult) {
    let name = object.spec.database.as_ref().map(|spec| names::database(object, spec));
    let (object, reason) = (object.name_any(), result.text().1);
    tracing::warn!(
        object,
        database = name,
        reason,
        "database kept: the namespace is being deleted, and it cannot be dropped"
    );
}

/// Whether the operator's namespace is being deleted. If that cannot be read, it is not.
async fn is_namespace_terminating(context: &Context) -> bool {
    let api: Api<Namespace> = Api::all(context.client.clone());
    match with_timeout("read the namespace", api.get_opt(&context.settings.namespace)).await {
        Ok(namespace) => namespace.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some()),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot tell if the namespace is being deleted");
            false
        }
    }
}

fn age_of_deletion(object: &Microservice) -> Duration {
    let since = object.metadata.deletion_timestamp.as_ref().map(|time| Timestamp::now().duration_since(time.0));
    since.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default()
}

fn must_drop(object: &Microservice) -> bool {
    object.spec.database.as_ref().is_some_and(|spec| spec.deletion_policy == DeletionPolicy::Delete)
}

fn has_finalizer(object: &Microservice) -> bool {
    object.finalizers().iter().any(|finalizer| finalizer == finalizers::DATABASE)
}

/// Adds or removes the finalizer. Returns the resulting object, or `None` if it was deleted meanwhile.
async fn set_finalizer(object: &Microservice, context: &Context, present: bool) -> Result<Option<Microservice>, Error> {
    let api: Api<Microservice> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    let (name, parameters) = (object.name_any(), PatchParams::default());
    let (mut latest, mut attempts) = (object.clone(), 0);
    loop {
        attempts += 1;
        let mut all = latest.finalizers().to_vec();
        all.retain(|finalizer| finalizer != finalizers::DATABASE);
        if present {
            all.push(finalizers::DATABASE.to_owned());
        }
        // The resource version protects finalizers that others add at the same time.
        let version = &latest.metadata.resource_version;
        let patch = Patch::Merge(serde_json::json!({ "metadata": { "finalizers": all, "resourceVersion": version } }));
        match with_timeout("set the finalizer", api.patch(&name, &parameters, &patch)).await {
            Err(error) if error.is_conflict() && attempts < ATTEMPTS => {}
            Err(error) if error.is_gone() && !error.is_conflict() => return Ok(None),
            written => return written.map(Some),
        }
        match with_timeout("read the object", api.get_opt(&name)).await? {
            Some(found) if found.uid() == object.uid() && !(present && found.metadata.deletion_timestamp.is_some()) => {
                latest = found;
            }
            _ => return Ok(None),
        }
    }
}

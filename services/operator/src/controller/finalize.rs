//! Deletion of an object: under `deletionPolicy: Delete` its database is dropped first.

use std::sync::Arc;

use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};

use super::{
    context::Context,
    database,
    error::{Error, with_timeout},
    queue::Action,
};
use crate::manifests::names;
use api::{DeletionPolicy, Microservice, finalizers};

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
        return Ok(Action::await_change());
    }
    if let (true, Some(spec)) = (must_drop(object), &object.spec.database)
        && let Err(result) = database::remove(context, object, spec).await
    {
        let (reason, message) = result.text();
        let note = format!("database {} cannot be dropped yet: {message}", names::database(object, spec));
        context.events.warning(object, reason, &note).await;
        return Ok(Action::requeue(context.backoff.wait(&object.name_any(), reason)));
    }
    set_finalizer(object, context, false).await?;
    Ok(Action::await_change())
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

//! Deletion of an object: under `deletionPolicy: Delete` its database is dropped first.

use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    runtime::controller::Action,
};

use super::{
    context::Context,
    database,
    error::{Error, with_timeout},
};
use crate::manifests::names;
use api::{DeletionPolicy, Microservice, finalizers};

/// Sets or removes the finalizer according to the deletion policy.
pub(crate) async fn prepare(object: &Microservice, context: &Context) -> Result<(), Error> {
    let required = must_drop(object);
    if required == has_finalizer(object) { Ok(()) } else { set_finalizer(object, context, required).await }
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

async fn set_finalizer(object: &Microservice, context: &Context, present: bool) -> Result<(), Error> {
    let api: Api<Microservice> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    let mut all = object.finalizers().to_vec();
    all.retain(|finalizer| finalizer != finalizers::DATABASE);
    if present {
        all.push(finalizers::DATABASE.to_owned());
    }
    // The resource version protects finalizers that others add at the same time.
    let version = &object.metadata.resource_version;
    let patch = serde_json::json!({ "metadata": { "finalizers": all, "resourceVersion": version } });
    match with_timeout(
        "set the finalizer",
        api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)),
    )
    .await
    {
        // It changed or was deleted meanwhile, which triggers another reconcile.
        Err(error) if error.is_gone() => Ok(()),
        result => result.map(drop),
    }
}

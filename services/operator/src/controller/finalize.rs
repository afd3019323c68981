//! The end of an object: its database is dropped before it goes, where it asks for that.

use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    runtime::controller::Action,
};

use super::{
    Context, database,
    error::{Error, within},
};
use crate::manifests::names;
use api::{DeletionPolicy, Microservice};

/// Keeps an object until its database is dropped.
const FINALIZER: &str = "hedgerow.dev/database";

/// Has the object kept at its deletion if its database is to be dropped then, and only if.
pub(crate) async fn prepare(object: &Microservice, context: &Context) -> Result<(), Error> {
    let drops = drops(object);
    if drops == is_held(object) { Ok(()) } else { hold(object, context, drops).await }
}

/// Drops the database of an object that is being deleted, if it asks for that, and lets the object go.
pub(crate) async fn finalize(object: &Microservice, context: &Context) -> Result<Action, Error> {
    if !is_held(object) {
        return Ok(Action::await_change());
    }
    if let (true, Some(spec)) = (drops(object), &object.spec.database)
        && let Err(finding) = database::remove(context, object, spec).await
    {
        let (reason, message) = finding.text();
        let note = format!("database {} is not dropped yet: {message}", names::database(object, spec));
        context.events.warning(object, reason, &note).await;
        return Ok(Action::requeue(context.backoff.wait(&object.name_any(), reason)));
    }
    hold(object, context, false).await?;
    Ok(Action::await_change())
}

fn drops(object: &Microservice) -> bool {
    object.spec.database.as_ref().is_some_and(|spec| spec.deletion_policy == DeletionPolicy::Delete)
}

fn is_held(object: &Microservice) -> bool {
    object.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

async fn hold(object: &Microservice, context: &Context, present: bool) -> Result<(), Error> {
    let api: Api<Microservice> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    let mut finalizers = object.finalizers().to_vec();
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    if present {
        finalizers.push(FINALIZER.to_owned());
    }
    // With the version that was read, so that another's finalizer is not lost.
    let version = &object.metadata.resource_version;
    let patch = serde_json::json!({ "metadata": { "finalizers": finalizers, "resourceVersion": version } });
    match within("setting the finalizer", api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)))
        .await
    {
        // Changed or gone meanwhile: the change brings another look.
        Err(error) if error.is_gone() => Ok(()),
        result => result.map(drop),
    }
}

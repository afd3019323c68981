//! Writes the status of an object when it changes, with an event.

use api::{DatabaseStatus, Microservice, MicroserviceStatus};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{
    conditions::{ConditionResult, ConditionResults},
    context::Context,
    deploy::Observed,
    error::{Error, with_timeout},
    fields::MANAGER,
};
use crate::manifests::names;

/// The outcome of a reconcile.
pub(crate) struct Outcome {
    pub(crate) results: ConditionResults,
    /// What runs; `None` if that cannot be found out now.
    pub(crate) running: Option<Running>,
    pub(crate) schema_version: Option<i64>,
    pub(crate) system_identifier: Option<String>,
    pub(crate) port: Option<i32>,
}

/// What runs, whatever is specified.
#[derive(Default)]
pub(crate) struct Running {
    /// The image that serves.
    pub(crate) image: Option<String>,
    pub(crate) replicas: i32,
    pub(crate) ready_replicas: i32,
}

/// Writes the status unless it is unchanged. What others wrote into it goes.
pub(crate) async fn write(context: &Context, object: &Microservice, outcome: &Outcome) -> Result<(), Error> {
    let before = context.statuses.last(object);
    let summary = outcome.results.summary();
    let mut status = status(object, outcome, before.as_ref());
    if !is_meant_for(object, context.settings.configuration.as_ref()) {
        status.observed_generation -= 1;
    }
    if store(context, object, before.as_ref(), status).await? {
        record_event(context, object, &summary, before.as_ref()).await;
    }
    Ok(())
}

/// Writes what the pods do, unless that is unchanged, while a reconcile waits for something else. The rest of the status
/// stays, except that an object whose pods are not ready is no longer ready.
pub(crate) async fn write_observed(context: &Context, object: &Microservice, observed: Observed) -> Result<(), Error> {
    let (Some(before), Some(running)) = (context.statuses.last(object), observed.running) else { return Ok(()) };
    // The conditions are of the generation that was last reconciled.
    let generation = before.conditions.first().and_then(|known| known.observed_generation).unwrap_or(0);
    let rollout = match (observed.rollout, &observed.available) {
        // That of a newer one has not begun.
        (_, Some(available)) if Some(generation) != object.metadata.generation && available.is_ready() => {
            ConditionResult::ready("RolledOut", "")
        }
        // This status may be overtaken by what it waits for.
        (ConditionResult::Stalled(reason, message), _) => ConditionResult::Pending(reason, message),
        (rollout, _) => rollout,
    };
    let results = ConditionResults::of_pods(observed.available, rollout);
    let summary = results.summary();
    let was_ready = before.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let is_lost = was_ready && !summary.is_ready();
    let updated: &[&str] = if is_lost { &["Available", "Ready", "Reconciling", "Stalled"] } else { &["Available"] };
    let found = results.conditions(&before.conditions, generation, Timestamp::now());
    let mut status = MicroserviceStatus {
        image: running.image,
        replicas: running.replicas,
        ready_replicas: running.ready_replicas,
        ..before.clone()
    };
    for found in found.into_iter().filter(|found| updated.contains(&found.type_.as_str())) {
        if let Some(known) = status.conditions.iter_mut().find(|known| known.type_ == found.type_) {
            *known = found;
        }
    }
    if store(context, object, Some(&before), status).await? && is_lost {
        record_event(context, object, &summary, Some(&before)).await;
    }
    Ok(())
}

/// Writes a status if it is not the one before. Returns whether it was written.
async fn store(
    context: &Context,
    object: &Microservice,
    before: Option<&MicroserviceStatus>,
    status: MicroserviceStatus,
) -> Result<bool, Error> {
    if before == Some(&status) {
        // A new leader has written nothing yet, but must notice that someone changes this status.
        context.own_statuses.confirm(object, &status);
        return Ok(false);
    }
    let api: Api<Microservice> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    // The object may have been deleted meanwhile, and another one of its name created.
    let patch = serde_json::from_value(json!([
        { "op": "test", "path": "/metadata/uid", "value": object.uid() },
        { "op": "add", "path": "/status", "value": status },
    ]))?;
    let patch = Patch::Json::<()>(patch);
    let (name, parameters) =
        (object.name_any(), PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() });
    context.own_statuses.begin(object, &status);
    let write = api.patch_status(&name, &parameters, &patch);
    match with_timeout("write the status", write).await {
        Err(error) if error.is_gone() || error.is_of_another_object() => return Ok(false),
        written => {
            let written = written?;
            context.own_statuses.end(&written, &status);
            context.statuses.insert(&written, status);
        }
    }
    Ok(true)
}

/// Whether this operator has the configuration that the object waits for. The other one acts on it soon: during an upgrade
/// of the chart, objects change before the operator is replaced.
fn is_meant_for(object: &Microservice, configuration: Option<&String>) -> bool {
    object.spec.configuration.is_none() || object.spec.configuration.as_ref() == configuration
}

fn status(object: &Microservice, outcome: &Outcome, before: Option<&MicroserviceStatus>) -> MicroserviceStatus {
    let generation = object.metadata.generation.unwrap_or(0);
    let conditions = before.map(|status| status.conditions.as_slice()).unwrap_or_default();
    let conditions = outcome.results.conditions(conditions, generation, Timestamp::now());
    let (image, replicas, ready_replicas) = match (&outcome.running, before) {
        (Some(running), _) => (running.image.clone(), running.replicas, running.ready_replicas),
        (None, Some(before)) => (before.image.clone(), before.replicas, before.ready_replicas),
        (None, None) => (None, 0, 0),
    };
    let known = before.and_then(|status| status.database.as_ref());
    let namespace = object.namespace().unwrap_or_default();
    let url = outcome.port.map(|port| format!("http://{}.{namespace}.svc:{port}", object.name_any()));
    MicroserviceStatus {
        observed_generation: generation,
        url: url.or_else(|| before.and_then(|status| status.url.clone())),
        image,
        replicas,
        ready_replicas,
        database: object.spec.database.as_ref().map(|spec| DatabaseStatus {
            name: names::database(object, spec),
            secret_name: names::database_secret(object),
            // What was last known counts until it is known again.
            schema_version: outcome.schema_version.or_else(|| known?.schema_version),
            system_identifier: outcome.system_identifier.clone().or_else(|| known?.system_identifier.clone()),
        }),
        conditions,
    }
}

/// Records an event if the reason of `Ready` has changed.
async fn record_event(
    context: &Context,
    object: &Microservice,
    summary: &ConditionResult,
    before: Option<&MicroserviceStatus>,
) {
    let ready = before.and_then(|status| status.conditions.iter().find(|condition| condition.type_ == "Ready"));
    let reason = ready.map(|condition| condition.reason.as_str());
    let (now, message) = summary.text();
    if reason == Some(now) {
        return;
    }
    match summary {
        ConditionResult::Ready(..) => context.events.normal(object, now, message).await,
        // Normal progress.
        ConditionResult::Pending(
            "Migrating" | "NotRolledOut" | "RollingOut" | "PodsNotReady" | "WaitingForDeletion" | "Deleting",
            _,
        ) => {
            context.events.normal(object, now, message).await;
        }
        ConditionResult::Pending(..) | ConditionResult::Stalled(..) => {
            context.events.warning(object, now, message).await;
        }
    }
}

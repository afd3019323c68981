//! Writes the status of an object when it changes, with an event.

use api::{DatabaseStatus, Microservice, MicroserviceStatus};
use k8s_openapi::{api::apps::v1::Deployment, jiff::Timestamp};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};

use super::{
    children::MANAGER,
    conditions::{ConditionResult, ConditionResults},
    context::Context,
    error::{Error, with_timeout},
};
use crate::manifests::names;

/// The outcome of a reconcile.
pub(crate) struct Outcome {
    pub(crate) results: ConditionResults,
    pub(crate) deployment: Option<Deployment>,
    pub(crate) schema_version: Option<i64>,
    pub(crate) system_identifier: Option<String>,
    pub(crate) port: Option<i32>,
}

/// Writes the status unless it is unchanged.
pub(crate) async fn write(context: &Context, object: &Microservice, outcome: &Outcome) -> Result<(), Error> {
    let before = context.statuses.last(object);
    let summary = outcome.results.summary();
    let status = status(object, outcome, before.as_ref());
    if before.as_ref() == Some(&status) {
        return Ok(());
    }
    let api: Api<Microservice> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    let patch = serde_json::json!({
        "apiVersion": Microservice::api_version(&()), "kind": Microservice::kind(&()),
        "metadata": { "name": object.name_any() }, "status": status,
    });
    let (name, parameters, patch) = (object.name_any(), PatchParams::apply(MANAGER).force(), Patch::Apply(patch));
    let write = api.patch_status(&name, &parameters, &patch);
    match with_timeout("write the status", write).await {
        Err(error) if error.is_gone() => return Ok(()),
        written => context.statuses.insert(&written?, status),
    }
    record_event(context, object, &summary, before.as_ref()).await;
    Ok(())
}

fn status(object: &Microservice, outcome: &Outcome, before: Option<&MicroserviceStatus>) -> MicroserviceStatus {
    let generation = object.metadata.generation.unwrap_or(0);
    let conditions = before.map(|status| status.conditions.as_slice()).unwrap_or_default();
    let conditions = outcome.results.conditions(conditions, generation, Timestamp::now());
    let counts = outcome.deployment.as_ref().and_then(|deployment| deployment.status.clone()).unwrap_or_default();
    let image = outcome
        .deployment
        .as_ref()
        .and_then(|deployment| deployment.spec.as_ref()?.template.spec.as_ref()?.containers.first()?.image.clone());
    let known = before.and_then(|status| status.database.as_ref());
    let namespace = object.namespace().unwrap_or_default();
    let url = outcome.port.map(|port| format!("http://{}.{namespace}.svc:{port}", object.name_any()));
    MicroserviceStatus {
        observed_generation: generation,
        url: url.or_else(|| before.and_then(|status| status.url.clone())),
        image,
        replicas: counts.replicas.unwrap_or(0),
        ready_replicas: counts.ready_replicas.unwrap_or(0),
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
        ConditionResult::Pending("Migrating" | "NotRolledOut" | "RollingOut" | "PodsNotReady", _) => {
            context.events.normal(object, now, message).await;
        }
        ConditionResult::Pending(..) | ConditionResult::Stalled(..) => {
            context.events.warning(object, now, message).await;
        }
    }
}

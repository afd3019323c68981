//! The status of an object, written when it changes, with an event that says so.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};

use super::{
    Context,
    children::MANAGER,
    conditions::Finding,
    error::{Error, within},
    reconcile::Outcome,
};
use crate::manifests::names;
use api::{DatabaseStatus, Microservice, MicroserviceStatus};

/// The statuses last written, by uid, with the version that the write made: the watch may not have shown it yet.
#[derive(Default)]
pub(crate) struct Statuses(Mutex<HashMap<String, (u64, MicroserviceStatus)>>);

impl Statuses {
    /// The latest status that is known.
    pub(crate) fn last(&self, object: &Microservice) -> Option<MicroserviceStatus> {
        let statuses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let written = object.uid().and_then(|uid| statuses.get(&uid).cloned());
        match written {
            Some((made, status)) if version(object) < made => Some(status),
            _ => object.status.clone(),
        }
    }

    fn wrote(&self, made: &Microservice, status: MicroserviceStatus) {
        let uid = made.uid().unwrap_or_default();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, (version(made), status));
    }

    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// Versions can be compared since Kubernetes says so (KEP-5504), and always could.
fn version(object: &Microservice) -> u64 {
    object.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// Writes what was found, unless it says that already.
pub(crate) async fn write(context: &Context, object: &Microservice, outcome: &Outcome) -> Result<(), Error> {
    let before = context.statuses.last(object);
    let verdict = outcome.findings.verdict();
    let status = status(object, outcome, before.as_ref());
    if before.as_ref() == Some(&status) {
        return Ok(());
    }
    let api: Api<Microservice> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    let patch = serde_json::json!({
        "apiVersion": "hedgerow.dev/v1alpha1", "kind": "Microservice",
        "metadata": { "name": object.name_any() }, "status": status,
    });
    let (name, parameters, patch) = (object.name_any(), PatchParams::apply(MANAGER).force(), Patch::Apply(patch));
    let write = api.patch_status(&name, &parameters, &patch);
    match within("writing the status", write).await {
        Err(error) if error.is_gone() => return Ok(()),
        made => context.statuses.wrote(&made?, status),
    }
    tell(context, object, &verdict, before.as_ref()).await;
    Ok(())
}

fn status(object: &Microservice, outcome: &Outcome, before: Option<&MicroserviceStatus>) -> MicroserviceStatus {
    let generation = object.metadata.generation.unwrap_or(0);
    let conditions = before.map(|status| status.conditions.as_slice()).unwrap_or_default();
    let conditions = outcome.findings.conditions(conditions, generation, Timestamp::now());
    let counts = outcome.deployment.as_ref().and_then(|deployment| deployment.status.clone()).unwrap_or_default();
    let image = outcome
        .deployment
        .as_ref()
        .and_then(|deployment| deployment.spec.as_ref()?.template.spec.as_ref()?.containers.first()?.image.clone());
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
            secret_name: names::credentials(object),
            schema_version: outcome.schema_version,
        }),
        conditions,
    }
}

/// An event where the verdict has become another.
async fn tell(context: &Context, object: &Microservice, verdict: &Finding, before: Option<&MicroserviceStatus>) {
    let ready = before.and_then(|status| status.conditions.iter().find(|condition| condition.type_ == "Ready"));
    let reason = ready.map(|condition| condition.reason.as_str());
    let (now, message) = verdict.text();
    if reason == Some(now) {
        return;
    }
    match verdict {
        Finding::Good(..) => context.events.normal(object, now, message).await,
        // On its way as it should be.
        Finding::Pending("Migrating" | "NotRolledOut" | "RollingOut" | "PodsNotReady", _) => {
            context.events.normal(object, now, message).await;
        }
        Finding::Pending(..) | Finding::Wrong(..) => context.events.warning(object, now, message).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(version: u64, status: Option<MicroserviceStatus>) -> Microservice {
        let spec = serde_json::from_value(serde_json::json!({ "image": "localhost/orders:1" })).expect("a spec");
        let mut object = Microservice::new("orders", spec);
        object.metadata.uid = Some("the-uid".to_owned());
        object.metadata.resource_version = Some(version.to_string());
        object.status = status;
        object
    }

    fn observed(generation: i64) -> MicroserviceStatus {
        serde_json::from_value(serde_json::json!({ "observedGeneration": generation })).expect("a status")
    }

    #[test]
    fn what_was_written_counts_until_the_watch_has_caught_up() {
        let statuses = Statuses::default();
        assert_eq!(statuses.last(&object(1, Some(observed(1)))), Some(observed(1)));
        statuses.wrote(&object(5, None), observed(2));
        assert_eq!(statuses.last(&object(4, Some(observed(1)))), Some(observed(2)), "the watch is behind");
        assert_eq!(statuses.last(&object(5, Some(observed(2)))), Some(observed(2)));
        assert_eq!(statuses.last(&object(6, Some(observed(3)))), Some(observed(3)), "by another hand");
    }
}

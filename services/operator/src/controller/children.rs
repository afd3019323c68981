//! The children that exist, and bringing each to what it should be.
//!
//! For each child two fingerprints are kept: what was last applied, and what the API server made of it, with its
//! defaults filled in. While both hold nothing is written; a change by another hand shows as a difference.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        autoscaling::v2::HorizontalPodAutoscaler,
        batch::v1::Job,
        core::v1::{Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions},
};
use serde::Serialize;
use serde_json::Value;

use super::error::{Error, within};
use crate::manifests::pod_monitor;

/// Who wrote a field, for server-side apply.
pub(crate) const MANAGER: &str = "hedgerow-operator";
/// Who wrote the number of pods: apart, so that it can be left to the autoscaler.
const SCALE_MANAGER: &str = "hedgerow-operator-scale";

/// Every kind of child that each cluster has; [`pod_monitor`] is the one that it may lack.
pub(crate) fn kinds() -> [ApiResource; 7] {
    [
        ApiResource::erase::<ServiceAccount>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<NetworkPolicy>(&()),
        ApiResource::erase::<PodDisruptionBudget>(&()),
        ApiResource::erase::<Job>(&()),
        ApiResource::erase::<Deployment>(&()),
        ApiResource::erase::<HorizontalPodAutoscaler>(&()),
    ]
}

/// A child as it should be.
pub(crate) struct Child {
    pub(crate) kind: ApiResource,
    pub(crate) name: String,
    manifest: Value,
}

impl Child {
    /// # Errors
    /// Where the object cannot be written as JSON: a mistake in the code.
    pub(crate) fn new(object: &(impl Serialize + kube::ResourceExt), kind: ApiResource) -> Result<Self, Error> {
        let (name, mut manifest) = (object.name_any(), serde_json::to_value(object)?);
        manifest["apiVersion"] = kind.api_version.clone().into();
        manifest["kind"] = kind.kind.clone().into();
        if let Some(fields) = manifest.as_object_mut() {
            fields.remove("status");
        }
        Ok(Self { kind, name, manifest })
    }

    pub(crate) fn typed<K>(object: &K) -> Result<Self, Error>
    where
        K: Serialize + kube::Resource<DynamicType = ()>,
    {
        Self::new(object, ApiResource::erase::<K>(&()))
    }

    /// With this number of pods, for a Deployment that does not exist yet.
    pub(crate) fn with_replicas(mut self, replicas: i32) -> Self {
        self.manifest["spec"]["replicas"] = replicas.into();
        self
    }

    /// Its kind and name.
    pub(crate) fn key(&self) -> (String, String) {
        (self.kind.kind.clone(), self.name.clone())
    }
}

type Key = (String, String);

/// What is known of a child that exists.
struct Live {
    /// The uid of the `Microservice` that owns it.
    owner: Option<String>,
    uid: Option<String>,
    fingerprint: u64,
}

/// The last apply.
struct Applied {
    wanted: u64,
    made: u64,
}

#[derive(Default)]
struct Known {
    live: HashMap<Key, Live>,
    applied: HashMap<Key, Applied>,
}

/// The children in the operator's namespace.
pub(crate) struct Children {
    client: Client,
    namespace: String,
    known: Mutex<Known>,
}

impl Children {
    pub(crate) fn new(client: Client, namespace: String) -> Self {
        Self { client, namespace, known: Mutex::default() }
    }

    /// Notes what the API server says about a child; `exists` is false once it is gone.
    pub(crate) fn note(&self, kind: &ApiResource, object: &DynamicObject, exists: bool) {
        let key = (kind.kind.clone(), object.name_any());
        let mut known = self.known();
        if exists {
            known.live.insert(key, live(object));
        } else {
            known.live.remove(&key);
            known.applied.remove(&key);
        }
    }

    /// Forgets all children of a kind but these, after a gap in what was seen.
    pub(crate) fn retain(&self, kind: &ApiResource, names: &std::collections::HashSet<String>) {
        let mut known = self.known();
        let stays = |key: &Key| key.0 != kind.kind || names.contains(&key.1);
        known.live.retain(|key, _| stays(key));
        known.applied.retain(|key, _| stays(key));
    }

    /// Brings a child to what it should be. True when something was written.
    ///
    /// # Errors
    /// [`Error::Taken`] for an object of this name that another one owns, or nobody.
    pub(crate) async fn apply(&self, owner: &str, child: &Child) -> Result<bool, Error> {
        let mut hasher = DefaultHasher::new();
        child.manifest.to_string().hash(&mut hasher);
        let wanted = hasher.finish();
        {
            let known = self.known();
            let key = child.key();
            if let (Some(live), Some(applied)) = (known.live.get(&key), known.applied.get(&key))
                && applied.wanted == wanted
                && applied.made == live.fingerprint
            {
                return Ok(false);
            }
        }
        let api = self.api(&child.kind);
        let ours = self.known().live.get(&child.key()).is_some_and(|live| live.owner.as_deref() == Some(owner));
        if !ours
            && let Some(there) = within("reading a child", api.get_opt(&child.name)).await?
            && owner_of(&there.metadata).as_deref() != Some(owner)
        {
            return Err(Error::Taken { kind: child.kind.kind.clone(), name: child.name.clone() });
        }
        let parameters = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(&child.manifest);
        let made = within("applying a child", api.patch(&child.name, &parameters, &patch)).await?;
        let live = live(&made);
        let mut known = self.known();
        known.applied.insert(child.key(), Applied { wanted, made: live.fingerprint });
        known.live.insert(child.key(), live);
        Ok(true)
    }

    /// Sets the number of pods of a Deployment.
    pub(crate) async fn scale(&self, name: &str, replicas: i32) -> Result<(), Error> {
        let kind = ApiResource::erase::<Deployment>(&());
        let patch = serde_json::json!({
            "apiVersion": kind.api_version, "kind": kind.kind,
            "metadata": { "name": name }, "spec": { "replicas": replicas },
        });
        let parameters = PatchParams::apply(SCALE_MANAGER).force();
        within("scaling", self.api(&kind).patch(name, &parameters, &Patch::Apply(patch))).await?;
        Ok(())
    }

    /// Deletes what the object owns and no longer asks for.
    pub(crate) async fn prune(&self, owner: &str, wanted: &[(String, String)]) -> Result<(), Error> {
        let surplus: Vec<(Key, Option<String>)> = {
            let known = self.known();
            let found = known.live.iter().filter(|(_, live)| live.owner.as_deref() == Some(owner));
            found.filter(|(key, _)| !wanted.contains(key)).map(|(key, live)| (key.clone(), live.uid.clone())).collect()
        };
        for ((kind, name), uid) in surplus {
            if let Some(kind) = kinds().into_iter().chain([pod_monitor::resource()]).find(|known| known.kind == kind) {
                self.delete(&kind, &name, uid).await?;
            }
        }
        Ok(())
    }

    /// Deletes a child, with what it owns itself.
    pub(crate) async fn delete(&self, kind: &ApiResource, name: &str, uid: Option<String>) -> Result<(), Error> {
        let preconditions = Some(Preconditions { uid, resource_version: None });
        let parameters = DeleteParams { preconditions, ..DeleteParams::background() };
        match within("deleting a child", self.api(kind).delete(name, &parameters)).await {
            Err(error) if !error.is_gone() => return Err(error),
            _ => {}
        }
        tracing::info!(kind = kind.kind, name, "deleted");
        // Until the watch says so as well, it must not be found again.
        let mut known = self.known();
        known.live.remove(&(kind.kind.clone(), name.to_owned()));
        known.applied.remove(&(kind.kind.clone(), name.to_owned()));
        Ok(())
    }

    fn api(&self, kind: &ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, kind)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The uid of the `Microservice` that controls an object.
pub(crate) fn owner_of(metadata: &ObjectMeta) -> Option<String> {
    let owners = metadata.owner_references.iter().flatten();
    owners
        .into_iter()
        .find(|owner| owner.controller == Some(true) && owner.kind == "Microservice")
        .map(|owner| owner.uid.clone())
}

/// Whether this operator's own apply set the number of pods: only that of a new Deployment does.
pub(crate) fn owns_replicas(deployment: &Deployment) -> bool {
    let fields = deployment.metadata.managed_fields.iter().flatten();
    fields
        .into_iter()
        .filter(|entry| entry.manager.as_deref() == Some(MANAGER))
        .any(|entry| entry.fields_v1.as_ref().is_some_and(|fields| fields.0.pointer("/f:spec/f:replicas").is_some()))
}

fn live(object: &DynamicObject) -> Live {
    Live {
        owner: owner_of(&object.metadata),
        uid: object.metadata.uid.clone(),
        fingerprint: fingerprint(&serde_json::to_value(object).unwrap_or_default()),
    }
}

/// A hash of all that a hand can change: not of the status, nor of what other controllers write.
fn fingerprint(object: &Value) -> u64 {
    let metadata = &object["metadata"];
    let annotations = metadata["annotations"].as_object().into_iter().flatten();
    let annotations = annotations.filter(|(key, _)| !key.starts_with("deployment.kubernetes.io/"));
    let mut hasher = DefaultHasher::new();
    for (key, value) in annotations {
        (key, value.to_string()).hash(&mut hasher);
    }
    metadata["labels"].to_string().hash(&mut hasher);
    metadata["ownerReferences"].to_string().hash(&mut hasher);
    for (key, value) in object.as_object().into_iter().flatten() {
        match key.as_str() {
            // The kind is missing from objects of a list.
            "apiVersion" | "kind" | "metadata" | "status" => {}
            // The number of pods is written apart, by the autoscaler or by `scale`.
            "spec" => {
                for (key, value) in value.as_object().into_iter().flatten().filter(|(key, _)| *key != "replicas") {
                    (key, value.to_string()).hash(&mut hasher);
                }
            }
            _ => (key, value.to_string()).hash(&mut hasher),
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(pointer: &str, value: Value) -> bool {
        let before = serde_json::json!({
            "kind": "Deployment",
            "metadata": { "name": "a", "labels": { "x": "1" }, "annotations": { "y": "2" }, "resourceVersion": "7" },
            "spec": { "replicas": 2, "paused": false },
            "status": { "replicas": 1 },
        });
        let mut after = before.clone();
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
        after.pointer_mut(parent).expect("a parent")[field.replace("~1", "/")] = value;
        fingerprint(&before) != fingerprint(&after)
    }

    #[test]
    fn a_fingerprint_tells_a_hand_from_a_controller() {
        assert!(changes("/spec/paused", true.into()));
        assert!(changes("/metadata/labels/x", "3".into()));
        assert!(changes("/metadata/annotations/z", "3".into()));
        assert!(changes("/metadata/ownerReferences", serde_json::json!([{ "uid": "u" }])));
        assert!(!changes("/spec/replicas", 5.into()), "the autoscaler's");
        assert!(!changes("/status/replicas", 5.into()));
        assert!(!changes("/metadata/resourceVersion", "8".into()));
        assert!(!changes("/metadata/annotations/deployment.kubernetes.io~1revision", "2".into()));
    }
}

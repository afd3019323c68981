//! Applies and deletes children.
//!
//! Two fingerprints are kept for each child: of the manifest that was last applied, and of the object that the API
//! server made of it, with defaults filled in. While both are unchanged nothing is written. An edit by someone else
//! changes the second one.

use std::{
    collections::{HashMap, HashSet},
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
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions},
};
use serde::Serialize;
use serde_json::Value;

use super::{
    error::{Error, with_timeout},
    fingerprint::fingerprint,
};
use crate::manifests::pod_monitor;
use api::Microservice;

/// The field manager for server-side apply.
pub(crate) const MANAGER: &str = "hedgerow-operator";
/// The field manager of the replica count. It is separate so that the autoscaler can take the count over.
const SCALE_MANAGER: &str = "hedgerow-operator-scale";

/// The kinds of children that every cluster has. A cluster may lack [`pod_monitor`].
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

/// The manifest of a child.
pub(crate) struct Child {
    pub(crate) kind: ApiResource,
    pub(crate) name: String,
    manifest: Value,
}

impl Child {
    /// # Errors
    /// Returns an error if the object cannot be serialized, which is a bug.
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

    /// Sets the replica count, for a Deployment that does not exist yet.
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

/// An existing child.
struct Existing {
    /// The `Microservice` that controls it.
    owner: Option<OwnerReference>,
    uid: Option<String>,
    version: Option<u64>,
    fingerprint: u64,
}

impl Existing {
    fn is_controlled_by(&self, uid: &str) -> bool {
        self.owner.as_ref().is_some_and(|owner| owner.uid == uid)
    }

    fn into_owner_name(self) -> Option<String> {
        self.owner.map(|owner| owner.name)
    }
}

/// The fingerprints of the last apply.
struct Applied {
    manifest: u64,
    object: u64,
}

#[derive(Default)]
struct State {
    existing: HashMap<Key, Existing>,
    applied: HashMap<Key, Applied>,
}

/// The children in the operator's namespace.
pub(crate) struct Children {
    client: Client,
    namespace: String,
    known: Mutex<State>,
}

impl Children {
    pub(crate) fn new(client: Client, namespace: String) -> Self {
        Self { client, namespace, known: Mutex::default() }
    }

    /// Records an event of a watch. `exists` is false once the child is deleted. Returns the names of the objects that
    /// control the child now and before.
    pub(crate) fn observe(&self, kind: &ApiResource, object: &DynamicObject, exists: bool) -> Vec<String> {
        let key = (kind.kind.clone(), object.name_any());
        let mut known = self.known();
        let observed = existing(object);
        let before = if !exists {
            known.applied.remove(&key);
            known.existing.remove(&key)
        } else if known.existing.get(&key).is_some_and(|known| observed.version < known.version) {
            // The response to a write arrived before the event of an earlier one.
            None
        } else {
            known.existing.insert(key, observed)
        };
        let now = controller_of(&object.metadata).map(|owner| owner.name.clone());
        let before = before.and_then(Existing::into_owner_name).filter(|before| Some(before) != now.as_ref());
        now.into_iter().chain(before).collect()
    }

    /// Forgets all children of a kind except these, after the watch was restarted. Returns the names of the objects
    /// that controlled them.
    pub(crate) fn retain(&self, kind: &ApiResource, names: &HashSet<String>) -> Vec<String> {
        let mut known = self.known();
        let is_gone = |key: &Key| key.0 == kind.kind && !names.contains(&key.1);
        known.applied.retain(|key, _| !is_gone(key));
        known.existing.extract_if(|key, _| is_gone(key)).filter_map(|(_, gone)| gone.into_owner_name()).collect()
    }

    /// The latest known version of a child, from a watch or a write. Kubernetes guarantees that resource versions of one
    /// kind can be compared (KEP-5504).
    pub(crate) fn version(&self, kind: &str, name: &str) -> Option<u64> {
        self.known().existing.get(&(kind.to_owned(), name.to_owned()))?.version
    }

    /// Applies a child. Returns whether anything was written.
    ///
    /// # Errors
    /// Returns [`Error::Conflict`] if an object of this name exists that `owner_uid` does not control.
    pub(crate) async fn apply(&self, owner_uid: &str, child: &Child) -> Result<bool, Error> {
        let mut hasher = DefaultHasher::new();
        child.manifest.to_string().hash(&mut hasher);
        let manifest = hasher.finish();
        {
            let known = self.known();
            let key = child.key();
            if let (Some(existing), Some(applied)) = (known.existing.get(&key), known.applied.get(&key))
                && applied.manifest == manifest
                && applied.object == existing.fingerprint
            {
                return Ok(false);
            }
        }
        let api = self.api(&child.kind);
        let ours = self.known().existing.get(&child.key()).is_some_and(|existing| existing.is_controlled_by(owner_uid));
        if !ours
            && let Some(found) = with_timeout("read a child", api.get_opt(&child.name)).await?
            && !is_controlled_by(&found.metadata, owner_uid)
        {
            return Err(Error::Conflict { kind: child.kind.kind.clone(), name: child.name.clone() });
        }
        let parameters = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(&child.manifest);
        let made = with_timeout("apply a child", api.patch(&child.name, &parameters, &patch)).await?;
        let existing = existing(&made);
        let mut known = self.known();
        known.applied.insert(child.key(), Applied { manifest, object: existing.fingerprint });
        known.existing.insert(child.key(), existing);
        Ok(true)
    }

    /// Sets the replica count of a Deployment.
    pub(crate) async fn scale(&self, name: &str, replicas: i32) -> Result<(), Error> {
        let kind = ApiResource::erase::<Deployment>(&());
        let patch = serde_json::json!({
            "apiVersion": kind.api_version, "kind": kind.kind,
            "metadata": { "name": name }, "spec": { "replicas": replicas },
        });
        let parameters = PatchParams::apply(SCALE_MANAGER).force();
        let (api, patch) = (self.api(&kind), Patch::Apply(patch));
        let made = with_timeout("scale the Deployment", api.patch(name, &parameters, &patch)).await?;
        self.known().existing.insert((kind.kind, name.to_owned()), existing(&made));
        Ok(())
    }

    /// Deletes the children that the object no longer specifies.
    pub(crate) async fn prune(&self, owner_uid: &str, keep: &[(String, String)]) -> Result<(), Error> {
        let surplus: Vec<(Key, Option<String>)> = {
            let known = self.known();
            let found = known.existing.iter().filter(|(_, existing)| existing.is_controlled_by(owner_uid));
            found
                .filter(|(key, _)| !keep.contains(key))
                .map(|(key, existing)| (key.clone(), existing.uid.clone()))
                .collect()
        };
        for ((kind, name), uid) in surplus {
            if let Some(kind) = kinds().into_iter().chain([pod_monitor::resource()]).find(|known| known.kind == kind) {
                self.delete(&kind, &name, uid).await?;
            }
        }
        Ok(())
    }

    /// Deletes a child and its dependents.
    pub(crate) async fn delete(&self, kind: &ApiResource, name: &str, uid: Option<String>) -> Result<(), Error> {
        let preconditions = Some(Preconditions { uid, resource_version: None });
        let parameters = DeleteParams { preconditions, ..DeleteParams::background() };
        match with_timeout("delete a child", self.api(kind).delete(name, &parameters)).await {
            Err(error) if !error.is_gone() => return Err(error),
            _ => {}
        }
        tracing::info!(kind = kind.kind, name, "child deleted");
        // The watch may still report it for a moment.
        let mut known = self.known();
        known.existing.remove(&(kind.kind.clone(), name.to_owned()));
        known.applied.remove(&(kind.kind.clone(), name.to_owned()));
        Ok(())
    }

    fn api(&self, kind: &ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, kind)
    }

    fn known(&self) -> MutexGuard<'_, State> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The `Microservice` that controls an object.
pub(crate) fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    let mut owners = metadata.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true) && owner.kind == Microservice::kind(&()))
}

/// Whether the `Microservice` with this uid controls an object.
pub(crate) fn is_controlled_by(metadata: &ObjectMeta, uid: &str) -> bool {
    controller_of(metadata).is_some_and(|owner| owner.uid == uid)
}

/// Whether [`MANAGER`] set the replica count, which only happens when it creates a Deployment.
pub(crate) fn owns_replicas(deployment: &Deployment) -> bool {
    let fields = deployment.metadata.managed_fields.iter().flatten();
    fields
        .into_iter()
        .filter(|entry| entry.manager.as_deref() == Some(MANAGER))
        .any(|entry| entry.fields_v1.as_ref().is_some_and(|fields| fields.0.pointer("/f:spec/f:replicas").is_some()))
}

fn existing(object: &DynamicObject) -> Existing {
    Existing {
        owner: controller_of(&object.metadata).cloned(),
        uid: object.metadata.uid.clone(),
        version: object.metadata.resource_version.as_ref().and_then(|version| version.parse().ok()),
        fingerprint: fingerprint(&serde_json::to_value(object).unwrap_or_default()),
    }
}

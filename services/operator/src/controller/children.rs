//! Applies and deletes children.
//!
//! The operator owns its children whole: it replaces them, so that what others added goes (`fields` has the
//! exceptions). Two fingerprints are kept for each child: of the manifest that was last applied, and of the object that
//! the API server made of it, with defaults filled in. While both are unchanged nothing is written. An edit by someone
//! else changes the second one.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::api::{
    apps::v1::Deployment,
    autoscaling::v2::HorizontalPodAutoscaler,
    batch::v1::Job,
    core::v1::{Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, PostParams, Preconditions},
};

use super::{
    child::Child,
    error::{Error, with_timeout},
    existing::Existing,
    fields::MANAGER,
};
use crate::manifests::pod_monitor;
use api::Microservice;

/// How often a write is tried against a child that others change at the same time.
const ATTEMPTS: usize = 5;

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

type Key = (String, String);

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
        let observed = Existing::of(kind, object);
        let now = observed.controller().map(str::to_owned);
        let mut known = self.known();
        let before = known.existing.get(&key).and_then(|before| before.controller().map(str::to_owned));
        if !exists {
            known.applied.remove(&key);
            known.existing.remove(&key);
        // The response to a write may have arrived before the event of an earlier one.
        } else if known.existing.get(&key).is_none_or(|before| before.version <= observed.version) {
            known.existing.insert(key, observed);
        }
        let before = before.filter(|before| Some(before) != now.as_ref());
        now.into_iter().chain(before).collect()
    }

    /// Forgets all children of a kind except these, after the watch was restarted. Returns the names of the objects
    /// that controlled them.
    pub(crate) fn retain(&self, kind: &ApiResource, names: &HashSet<String>) -> Vec<String> {
        let mut known = self.known();
        let is_gone = |key: &Key| key.0 == kind.kind && !names.contains(&key.1);
        known.applied.retain(|key, _| !is_gone(key));
        let gone = known.existing.extract_if(|key, _| is_gone(key));
        gone.filter_map(|(_, gone)| gone.controller().map(str::to_owned)).collect()
    }

    /// The latest known version of a child, from a watch or a write.
    pub(crate) fn version(&self, kind: &str, name: &str) -> Option<u64> {
        self.known().existing.get(&(kind.to_owned(), name.to_owned()))?.version
    }

    /// The uid of a child that exists.
    pub(crate) fn uid(&self, kind: &str, name: &str) -> Option<String> {
        self.known().existing.get(&(kind.to_owned(), name.to_owned()))?.uid.clone()
    }

    /// Makes a child what its manifest says. Returns the resulting child if anything was written.
    ///
    /// # Errors
    /// Returns [`Error::Conflict`] if an object of this name exists that belongs to something else, and
    /// [`Error::Leftover`] if one exists that is about to be deleted.
    pub(crate) async fn apply(&self, owner: &Microservice, child: &Child) -> Result<Option<DynamicObject>, Error> {
        let mut existing = self.known().existing.get(&child.key()).cloned();
        if existing.as_ref().is_some_and(|existing| self.is_applied(child, existing)) {
            return Ok(None);
        }
        let api = self.api(&child.kind);
        let mut attempts = 0;
        let made = loop {
            attempts += 1;
            match write(&api, owner, child, existing.as_ref()).await {
                // It was created, changed or deleted meanwhile. What the watch delivered is not enough to refuse it.
                Err(error) if error.is_gone() && attempts < ATTEMPTS || error.is_refusal() && attempts == 1 => {
                    let found = with_timeout("read a child", api.get_opt(&child.name)).await?;
                    existing = found.map(|found| Existing::of(&child.kind, &found));
                }
                written => break written?,
            }
        };
        let existing = Existing::of(&child.kind, &made);
        let applied = Applied { manifest: child.hash(), object: existing.fields.fingerprint };
        let mut known = self.known();
        known.applied.insert(child.key(), applied);
        known.existing.insert(child.key(), existing);
        Ok(Some(made))
    }

    /// The names of the Jobs that an object controls.
    pub(crate) fn jobs(&self, owner: &Microservice) -> Vec<String> {
        let known = self.known();
        let jobs = known.existing.iter().filter(|(key, existing)| key.0 == "Job" && existing.claim(owner).is_valid());
        jobs.map(|(key, _)| key.1.clone()).collect()
    }

    /// Deletes the children that the object no longer specifies, except Jobs, which the migration deletes.
    pub(crate) async fn prune(&self, owner: &Microservice, keep: &[(String, String)]) -> Result<(), Error> {
        let surplus: Vec<(Key, Option<String>)> = {
            let known = self.known();
            let surplus = known.existing.iter().filter(|(key, existing)| {
                let is_deleted_here = key.0 != "Job" && !existing.is_being_deleted;
                existing.claim(owner).is_valid() && is_deleted_here && !keep.contains(key)
            });
            surplus.map(|(key, existing)| (key.clone(), existing.uid.clone())).collect()
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

    /// Whether a child already is what its manifest says.
    fn is_applied(&self, child: &Child, existing: &Existing) -> bool {
        let known = self.known();
        let unchanged = known
            .applied
            .get(&child.key())
            .is_some_and(|applied| applied.manifest == child.hash() && applied.object == existing.fields.fingerprint);
        unchanged && child.allows_replicas_of(existing) && !existing.is_being_deleted
    }

    fn api(&self, kind: &ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, kind)
    }

    fn known(&self) -> MutexGuard<'_, State> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Creates a child, or replaces the existing one.
async fn write(
    api: &Api<DynamicObject>,
    owner: &Microservice,
    child: &Child,
    existing: Option<&Existing>,
) -> Result<DynamicObject, Error> {
    let (object, parameters) = (child.object(existing)?, PostParams::default());
    let parameters = PostParams { field_manager: Some(MANAGER.into()), ..parameters };
    match existing {
        None => with_timeout("create a child", api.create(&parameters, &object)).await,
        Some(existing) => {
            existing.check(owner, &child.kind.kind, &child.name)?;
            with_timeout("replace a child", api.replace(&child.name, &parameters, &object)).await
        }
    }
}

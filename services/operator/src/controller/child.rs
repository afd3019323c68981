//! The manifest of a child, as the controller applies it.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    ops::RangeInclusive,
};

use kube::{
    ResourceExt,
    api::{ApiResource, DynamicObject},
};
use serde::Serialize;
use serde_json::Value;

use super::{error::Error, existing::Existing};

/// The manifest of a child.
pub(crate) struct Child {
    pub(crate) kind: ApiResource,
    pub(crate) name: String,
    manifest: Value,
    /// The replica counts of a Deployment that its autoscaler may choose.
    replicas: Option<RangeInclusive<i32>>,
}

impl Child {
    /// # Errors
    /// Returns an error if the object cannot be serialized, which is a bug.
    pub(crate) fn new(object: &(impl Serialize + ResourceExt), kind: ApiResource) -> Result<Self, Error> {
        let (name, mut manifest) = (object.name_any(), serde_json::to_value(object)?);
        manifest["apiVersion"] = kind.api_version.clone().into();
        manifest["kind"] = kind.kind.clone().into();
        if let Some(fields) = manifest.as_object_mut() {
            fields.remove("status");
        }
        Ok(Self { kind, name, manifest, replicas: None })
    }

    pub(crate) fn typed<K>(object: &K) -> Result<Self, Error>
    where
        K: Serialize + kube::Resource<DynamicType = ()>,
    {
        Self::new(object, ApiResource::erase::<K>(&()))
    }

    /// Limits the replica count of a Deployment. A new one starts with the least.
    pub(crate) fn with_replicas(mut self, replicas: RangeInclusive<i32>) -> Self {
        self.replicas = Some(replicas);
        self
    }

    /// Its kind and name.
    pub(crate) fn key(&self) -> (String, String) {
        (self.kind.kind.clone(), self.name.clone())
    }

    /// A hash of the manifest.
    pub(crate) fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.manifest.to_string().hash(&mut hasher);
        hasher.finish()
    }

    /// Whether the replica count of the live child is one of those allowed.
    pub(crate) fn allows_replicas_of(&self, existing: &Existing) -> bool {
        self.replicas
            .as_ref()
            .is_none_or(|allowed| existing.fields.replicas.is_some_and(|replicas| allowed.contains(&replicas)))
    }

    /// The object to create, or to replace an existing one with: only the fields of others are kept.
    ///
    /// # Errors
    /// Returns an error if the manifest is not an object of Kubernetes, which is a bug.
    pub(crate) fn object(&self, existing: Option<&Existing>) -> Result<DynamicObject, Error> {
        let mut object = self.manifest.clone();
        if let Some(existing) = existing {
            existing.fields.keep_in(&mut object);
            // If it has changed meanwhile, nothing is lost: the API server refuses the replacement.
            object["metadata"]["resourceVersion"] = existing.version.map(|version| version.to_string()).into();
        }
        if let Some(allowed) = &self.replicas {
            let current = existing.and_then(|existing| existing.fields.replicas).unwrap_or(*allowed.start());
            object["spec"]["replicas"] = current.clamp(*allowed.start(), *allowed.end()).into();
        }
        Ok(serde_json::from_value(object)?)
    }
}

//! What the controller remembers of a live child, and to whom a live object belongs.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{
    Resource, ResourceExt,
    api::{ApiResource, DynamicObject},
};

use super::{
    error::Error,
    fields::{Fields, MANAGER},
};
use crate::manifests::MANAGED_BY;
use api::Microservice;

/// A live child.
#[derive(Debug, Clone)]
pub(crate) struct Existing {
    pub(crate) uid: Option<String>,
    /// Kubernetes guarantees that resource versions of one kind can be compared (KEP-5504).
    pub(crate) version: Option<u64>,
    pub(crate) is_being_deleted: bool,
    pub(crate) fields: Fields,
    owner: Owner,
}

/// To whom a live object belongs.
#[derive(Debug, Clone)]
enum Owner {
    /// The `Microservice` that controls it.
    Controller(OwnerReference),
    /// Nothing controls it, but the operator created it for an object of this name.
    Nobody {
        created_for: String,
    },
    Foreign,
}

/// What a live object is to a `Microservice`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Claim {
    /// It controls the object.
    Controlled,
    /// The operator created the object for it or for an earlier `Microservice` of its name, and nothing controls the
    /// object now: someone took the owner reference off, or deleted the earlier one with `--cascade=orphan`.
    Orphaned,
    /// An earlier `Microservice` of its name controls the object. Kubernetes deletes the object soon.
    Predecessors,
    /// The object has nothing to do with it.
    Foreign,
}

impl Claim {
    /// What an object with this metadata is to `owner`.
    pub(crate) fn of(metadata: &ObjectMeta, owner: &Microservice) -> Self {
        Owner::of(metadata).claim(owner)
    }

    /// Whether the `Microservice` controls the object, or may take it over.
    pub(crate) fn is_valid(self) -> bool {
        matches!(self, Self::Controlled | Self::Orphaned)
    }

    /// # Errors
    /// Returns [`Error::Conflict`] if the object belongs to something else, and [`Error::Leftover`] if it is about to
    /// be deleted.
    pub(crate) fn check(self, kind: &str, name: &str) -> Result<(), Error> {
        let (kind, name) = (kind.to_owned(), name.to_owned());
        match self {
            Self::Controlled | Self::Orphaned => Ok(()),
            Self::Predecessors => Err(Error::Leftover { kind, name }),
            Self::Foreign => Err(Error::Conflict { kind, name }),
        }
    }
}

impl Existing {
    pub(crate) fn of(kind: &ApiResource, object: &DynamicObject) -> Self {
        Self {
            uid: object.metadata.uid.clone(),
            version: object.metadata.resource_version.as_ref().and_then(|version| version.parse().ok()),
            is_being_deleted: object.metadata.deletion_timestamp.is_some(),
            fields: Fields::of(&kind.kind, serde_json::to_value(object).unwrap_or_default()),
            owner: Owner::of(&object.metadata),
        }
    }

    pub(crate) fn claim(&self, owner: &Microservice) -> Claim {
        self.owner.claim(owner)
    }

    /// Whether `owner` may replace it.
    ///
    /// # Errors
    /// As for [`Claim::check`].
    pub(crate) fn check(&self, owner: &Microservice, kind: &str, name: &str) -> Result<(), Error> {
        if self.is_being_deleted {
            return Err(Error::Leftover { kind: kind.to_owned(), name: name.to_owned() });
        }
        self.claim(owner).check(kind, name)
    }

    /// The name of the `Microservice` that controls it.
    pub(crate) fn controller(&self) -> Option<&str> {
        match &self.owner {
            Owner::Controller(owner) => Some(&owner.name),
            Owner::Nobody { .. } | Owner::Foreign => None,
        }
    }
}

impl Owner {
    fn of(metadata: &ObjectMeta) -> Self {
        let mut owners = metadata.owner_references.iter().flatten();
        match owners.find(|owner| owner.controller == Some(true)) {
            Some(owner) if owner.kind == Microservice::kind(&()) => Self::Controller(owner.clone()),
            Some(_) => Self::Foreign,
            None => created_for(metadata).map_or(Self::Foreign, |created_for| Self::Nobody { created_for }),
        }
    }

    fn claim(&self, owner: &Microservice) -> Claim {
        match self {
            Self::Controller(controller) if Some(&controller.uid) == owner.uid().as_ref() => Claim::Controlled,
            Self::Controller(controller) if controller.name == owner.name_any() => Claim::Predecessors,
            Self::Nobody { created_for } if *created_for == owner.name_any() => Claim::Orphaned,
            Self::Controller(_) | Self::Nobody { .. } | Self::Foreign => Claim::Foreign,
        }
    }
}

/// The name of the `Microservice` that the operator created an object for. The labels alone would not prove it: people
/// copy manifests.
fn created_for(metadata: &ObjectMeta) -> Option<String> {
    let labels = metadata.labels.as_ref()?;
    let (key, value) = MANAGED_BY.split_once('=')?;
    let mut writers = metadata.managed_fields.iter().flatten();
    let by_operator = writers.any(|writer| writer.manager.as_deref() == Some(MANAGER));
    if labels.get(key)? == value && by_operator { labels.get("app.kubernetes.io/name").cloned() } else { None }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(metadata: Value) -> Claim {
        let spec = serde_json::from_value(json!({ "image": "localhost/orders:1" })).expect("a spec");
        let mut owner = Microservice::new("orders", spec);
        owner.metadata.uid = Some("now".to_owned());
        Claim::of(&serde_json::from_value(metadata).expect("metadata"), &owner)
    }

    fn owned(kind: &str, name: &str, uid: &str) -> Claim {
        let owner = json!({ "apiVersion": "x/v1", "kind": kind, "name": name, "uid": uid, "controller": true });
        claim(json!({ "ownerReferences": [owner] }))
    }

    #[test]
    fn an_object_belongs_to_its_controller() {
        assert_eq!(owned("Microservice", "orders", "now"), Claim::Controlled);
        assert_eq!(owned("Microservice", "orders", "before"), Claim::Predecessors);
        assert_eq!(owned("Microservice", "users", "other"), Claim::Foreign);
        assert_eq!(owned("StatefulSet", "orders", "now"), Claim::Foreign);
    }

    #[test]
    fn an_orphan_is_recognised_by_its_labels_and_its_writer() {
        let labels =
            |by: &str, name: &str| json!({ "app.kubernetes.io/managed-by": by, "app.kubernetes.io/name": name });
        let orphan = |labels: Value, writer: &str| {
            claim(json!({ "labels": labels, "managedFields": [{ "manager": "kubectl" }, { "manager": writer }] }))
        };
        assert_eq!(orphan(labels("hedgerow-operator", "orders"), "hedgerow-operator"), Claim::Orphaned);
        assert_eq!(orphan(labels("hedgerow-operator", "users"), "hedgerow-operator"), Claim::Foreign);
        assert_eq!(orphan(labels("Helm", "orders"), "hedgerow-operator"), Claim::Foreign);
        assert_eq!(orphan(labels("hedgerow-operator", "orders"), "helm"), Claim::Foreign, "a copy");
        assert_eq!(claim(json!({})), Claim::Foreign);
    }
}

//! Secrets as the watch reports them, by their metadata, and the data of those that reconciles have read, so that
//! reconciling an object that has settled reads no Secret.
//!
//! Data counts as long as the watch reports the version that it was read in. It includes passwords: each check of a
//! database logs in with them.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::ResourceExt;

use api::{annotations, labels};

/// The known Secrets, by name.
#[derive(Default)]
pub(crate) struct KnownSecrets(Mutex<State>);

#[derive(Default)]
struct State {
    /// Whether the watch has reported all of them.
    listed: bool,
    reported: HashMap<String, Metadata>,
    read: HashMap<String, Secret>,
}

/// What the metadata of a Secret says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Metadata {
    version: Option<String>,
    /// The object whose credentials it has.
    object: Option<String>,
    /// Whether it has an ownership comment.
    pub(crate) is_owned: bool,
    /// Whether it has the label of a database server.
    pub(crate) is_server: bool,
}

impl Metadata {
    pub(crate) fn of(metadata: &ObjectMeta) -> Self {
        let label = |key: &str| metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
        let is_credentials = label("app.kubernetes.io/managed-by") == Some("hedgerow-operator")
            && label("app.kubernetes.io/component") == Some("database");
        Self {
            version: metadata.resource_version.clone(),
            object: label("app.kubernetes.io/name").filter(|_| is_credentials).map(str::to_owned),
            is_owned: metadata.annotations.as_ref().is_some_and(|all| all.contains_key(annotations::OWNERSHIP)),
            is_server: label(labels::SERVER) == Some("true"),
        }
    }
}

/// What the watch reported of a Secret.
pub(crate) struct SecretChange {
    pub(crate) name: String,
    before: Option<Metadata>,
    now: Option<Metadata>,
}

impl SecretChange {
    /// The object whose credentials were changed or deleted. New ones are no change: a reconcile has just created them.
    pub(crate) fn credentials_of(&self) -> Option<&str> {
        let before = self.before.as_ref()?;
        let is_changed = self.now.as_ref().is_none_or(|now| now.version != before.version);
        before.object.as_deref().filter(|_| is_changed)
    }

    /// Whether its data may be new: it was created, changed or deleted.
    pub(crate) fn is_changed(&self) -> bool {
        let version = |metadata: &Option<Metadata>| metadata.as_ref().and_then(|metadata| metadata.version.clone());
        version(&self.before) != version(&self.now)
    }

    /// Whether it got or lost the label of a database server.
    pub(crate) fn is_relabeled(&self) -> bool {
        let is_server = |metadata: Option<&Metadata>| metadata.is_some_and(|metadata| metadata.is_server);
        is_server(self.before.as_ref()) != is_server(self.now.as_ref())
    }
}

impl KnownSecrets {
    /// Records a Secret that the watch reports.
    pub(crate) fn report(&self, metadata: &ObjectMeta) -> SecretChange {
        let (name, now) = (metadata.name.clone().unwrap_or_default(), Metadata::of(metadata));
        let before = self.state().reported.insert(name.clone(), now.clone());
        SecretChange { name, before, now: Some(now) }
    }

    /// Removes a deleted Secret.
    pub(crate) fn remove(&self, name: &str) -> SecretChange {
        let mut state = self.state();
        state.read.remove(name);
        SecretChange { name: name.to_owned(), before: state.reported.remove(name), now: None }
    }

    /// Removes all Secrets except these, which are all that there are.
    pub(crate) fn retain(&self, names: &HashSet<String>) -> Vec<SecretChange> {
        let gone: Vec<String> = {
            let mut state = self.state();
            state.listed = true;
            state.reported.keys().filter(|name| !names.contains(*name)).cloned().collect()
        };
        gone.iter().map(|name| self.remove(name)).collect()
    }

    /// Whether the watch has reported all Secrets.
    pub(crate) fn are_listed(&self) -> bool {
        self.state().listed
    }

    /// What the watch reported last, if the Secret exists.
    pub(crate) fn metadata(&self, name: &str) -> Option<Metadata> {
        self.state().reported.get(name).cloned()
    }

    /// Records a Secret that was read or written.
    pub(crate) fn insert(&self, mut secret: Secret) {
        secret.metadata.managed_fields = None;
        self.state().read.insert(secret.name_any(), secret);
    }

    /// A Secret as it was read, if the watch reports the same version.
    pub(crate) fn current(&self, name: &str) -> Option<Secret> {
        let state = self.state();
        let reported = state.reported.get(name)?.version.as_ref()?;
        state.read.get(name).filter(|secret| secret.metadata.resource_version.as_ref() == Some(reported)).cloned()
    }

    /// Drops the data of a Secret that is no longer needed.
    pub(crate) fn forget(&self, name: &str) {
        self.state().read.remove(name);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(version: &str, labels: &[(&str, &str)]) -> Secret {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let metadata = ObjectMeta {
            name: Some("orders-database".to_owned()),
            resource_version: Some(version.to_owned()),
            labels: Some(labels),
            ..ObjectMeta::default()
        };
        Secret { metadata, ..Secret::default() }
    }

    #[test]
    fn data_counts_while_the_watch_reports_its_version() {
        let known = KnownSecrets::default();
        let is_current = || known.current("orders-database").is_some();
        known.insert(secret("5", &[]));
        assert!(!is_current(), "the watch has not reported it yet");
        known.report(&secret("4", &[]).metadata);
        assert!(!is_current(), "the watch lags behind");
        known.report(&secret("5", &[]).metadata);
        assert!(is_current());
        known.report(&secret("6", &[]).metadata);
        assert!(!is_current(), "someone changed it");
        known.insert(secret("6", &[]));
        assert!(is_current());
        known.remove("orders-database");
        assert!(!is_current());
        known.report(&secret("6", &[]).metadata);
        assert!(!is_current(), "it was dropped");
    }

    #[test]
    fn secrets_missing_from_a_list_are_removed() {
        let known = KnownSecrets::default();
        let labels = [
            ("app.kubernetes.io/managed-by", "hedgerow-operator"),
            ("app.kubernetes.io/component", "database"),
            ("app.kubernetes.io/name", "orders"),
        ];
        known.report(&secret("5", &labels).metadata);
        assert!(!known.are_listed());
        let removed = known.retain(&HashSet::new());
        assert!(known.are_listed());
        assert_eq!(removed.iter().filter_map(SecretChange::credentials_of).collect::<Vec<_>>(), ["orders"]);
        assert_eq!(known.metadata("orders-database"), None);
    }
}

//! What earlier reconciles verified or wrote, by uid of the object.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use api::{Microservice, MicroserviceStatus};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::Instant;

use super::conditions::ConditionResult;

/// What is known of the databases.
#[derive(Default)]
pub(crate) struct DatabaseCache(Mutex<HashMap<String, KnownDatabase>>);

#[derive(Default)]
struct KnownDatabase {
    verified: Option<VerifiedDatabase>,
    /// The last attempt since then, if it failed.
    failed: Option<FailedDatabase>,
}

/// A database that was not as specified, or could not be verified.
#[derive(Clone)]
pub(crate) struct FailedDatabase {
    /// A hash of the specification.
    pub(crate) spec: u64,
    pub(crate) result: ConditionResult,
    /// Whether the service must not use it.
    pub(crate) is_refused: bool,
}

/// A database that was as specified.
#[derive(Clone)]
pub(crate) struct VerifiedDatabase {
    /// A hash of the specification.
    pub(crate) spec: u64,
    pub(crate) at: Instant,
    /// The same as wall-clock time, for comparison with timestamps from the API server.
    pub(crate) verified_at: Timestamp,
    pub(crate) schema_version: Option<i64>,
    /// Whether all connections of the role are in use.
    pub(crate) is_exhausted: bool,
    /// The identifier of the server.
    pub(crate) system_identifier: String,
    pub(crate) message: String,
}

impl DatabaseCache {
    pub(crate) fn get(&self, uid: &str) -> Option<VerifiedDatabase> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(uid)?.verified.clone()
    }

    pub(crate) fn insert(&self, uid: &str, verified: VerifiedDatabase) {
        let known = KnownDatabase { verified: Some(verified), failed: None };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), known);
    }

    /// The last attempt, if it was for this specification and failed.
    pub(crate) fn failed(&self, uid: &str, spec: u64) -> Option<FailedDatabase> {
        let databases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        databases.get(uid)?.failed.as_ref().filter(|failed| failed.spec == spec).cloned()
    }

    pub(crate) fn insert_failed(&self, uid: &str, failed: FailedDatabase) {
        let mut databases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        databases.entry(uid.to_owned()).or_default().failed = Some(failed);
    }

    /// Makes the next reconcile verify the database again.
    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// The statuses last written, each with the resource version of the write: the watch may not have delivered it yet.
#[derive(Default)]
pub(crate) struct StatusCache(Mutex<HashMap<String, (u64, MicroserviceStatus)>>);

impl StatusCache {
    /// The latest known status. The one that was written is kept until the watch has delivered it.
    pub(crate) fn last(&self, object: &Microservice) -> Option<MicroserviceStatus> {
        let mut statuses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = object.uid().unwrap_or_default();
        match statuses.get(&uid) {
            Some((version, status)) if resource_version(object) < *version => Some(status.clone()),
            _ => {
                statuses.remove(&uid);
                object.status.clone()
            }
        }
    }

    /// Stores the status that was written; `object` is the response to the write.
    pub(crate) fn insert(&self, object: &Microservice, status: MicroserviceStatus) {
        let uid = object.uid().unwrap_or_default();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, (resource_version(object), status));
    }

    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// Kubernetes guarantees that resource versions of one kind can be compared (KEP-5504).
pub(super) fn resource_version(object: &Microservice) -> u64 {
    object.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0)
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
    fn the_written_status_counts_until_the_watch_delivers_it() {
        let statuses = StatusCache::default();
        assert_eq!(statuses.last(&object(1, Some(observed(1)))), Some(observed(1)));
        statuses.insert(&object(5, None), observed(2));
        assert_eq!(statuses.last(&object(4, Some(observed(1)))), Some(observed(2)), "the watch lags behind");
        assert_eq!(statuses.last(&object(5, Some(observed(2)))), Some(observed(2)));
        assert_eq!(statuses.last(&object(6, Some(observed(3)))), Some(observed(3)), "written by someone else");
    }
}

//! The statuses that the operator wrote, to notice that someone else changed one.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, PoisonError},
};

use api::{Microservice, MicroserviceStatus};
use kube::ResourceExt;

use super::cache::resource_version;

/// Hashes of the statuses last written, by uid of the object.
#[derive(Default)]
pub(crate) struct OwnStatuses(Mutex<HashMap<String, Written>>);

#[derive(Default)]
struct Written {
    /// The resource version of the write.
    version: u64,
    status: u64,
    /// What is being written, which the watch may deliver before the response.
    next: Option<u64>,
}

impl OwnStatuses {
    /// Records the status that is about to be written.
    pub(crate) fn begin(&self, object: &Microservice, status: &MicroserviceStatus) {
        let mut statuses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = Written { version: resource_version(object), status: hash(object.status.as_ref()), next: None };
        statuses.entry(object.uid().unwrap_or_default()).or_insert(before).next = Some(hash(Some(status)));
    }

    /// Records the status that was written; `object` is the response to the write.
    pub(crate) fn end(&self, object: &Microservice, status: &MicroserviceStatus) {
        let written = Written { version: resource_version(object), status: hash(Some(status)), next: None };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(object.uid().unwrap_or_default(), written);
    }

    /// Records a status that did not have to be written, unless a later one is known.
    pub(crate) fn confirm(&self, object: &Microservice, status: &MicroserviceStatus) {
        let mut statuses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = Written { version: resource_version(object), status: hash(Some(status)), next: None };
        statuses.entry(object.uid().unwrap_or_default()).or_insert(found);
    }

    /// Whether someone else changed the status.
    pub(crate) fn is_overwritten(&self, object: &Microservice) -> bool {
        let statuses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let written = object.uid().and_then(|uid| statuses.get(&uid));
        let now = hash(object.status.as_ref());
        written.is_some_and(|written| {
            resource_version(object) >= written.version && now != written.status && Some(now) != written.next
        })
    }

    /// Forgets a deleted object.
    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// Hashes what the API server stores: it rounds times.
fn hash(status: Option<&MicroserviceStatus>) -> u64 {
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(&status).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
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
    fn only_the_status_of_someone_else_is_overwritten() {
        let statuses = OwnStatuses::default();
        assert!(!statuses.is_overwritten(&object(1, None)), "nothing was written yet");
        statuses.begin(&object(1, None), &observed(1));
        assert!(!statuses.is_overwritten(&object(2, Some(observed(1)))), "the event precedes the response");
        statuses.end(&object(2, None), &observed(1));
        statuses.begin(&object(2, None), &observed(2));
        for status in [observed(1), observed(2)] {
            assert!(!statuses.is_overwritten(&object(3, Some(status))));
        }
        assert!(!statuses.is_overwritten(&object(1, None)), "an old event");
        assert!(statuses.is_overwritten(&object(4, None)), "it was emptied");
        assert!(statuses.is_overwritten(&object(4, Some(observed(-1)))));
    }

    #[test]
    fn a_status_that_did_not_have_to_be_written_counts() {
        let statuses = OwnStatuses::default();
        statuses.confirm(&object(5, Some(observed(1))), &observed(1));
        assert!(!statuses.is_overwritten(&object(6, Some(observed(1)))));
        assert!(statuses.is_overwritten(&object(6, Some(observed(-1)))));
        statuses.end(&object(7, None), &observed(2));
        statuses.confirm(&object(6, Some(observed(1))), &observed(1));
        assert!(!statuses.is_overwritten(&object(8, Some(observed(2)))), "a later one is known");
    }
}

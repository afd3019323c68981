//! The history of the objects, and watches of it.

use std::io;

use axum::body::Bytes;
use futures_util::{Stream, stream};
use serde_json::{Value, json};
use tokio::sync::watch;

/// All changes, each with its own version.
pub(super) struct History {
    record: watch::Sender<Record>,
}

#[derive(Default)]
struct Record {
    version: u64,
    /// The version up to which the history was discarded.
    forgotten: u64,
    /// The number of times that watches were broken.
    breaks: u64,
    /// Whether watches end when no event is pending.
    ending: bool,
    /// Version, collection and the serialized event.
    events: Vec<(u64, String, Value)>,
}

impl Default for History {
    fn default() -> Self {
        Self { record: watch::Sender::new(Record::default()) }
    }
}

impl History {
    pub(super) fn version(&self) -> u64 {
        self.record.borrow().version
    }

    /// Adds an event and returns the object with its new version.
    pub(super) fn add(&self, kind: &str, collection: &str, mut object: Value) -> Value {
        self.record.send_modify(|record| {
            record.version += 1;
            object["metadata"]["resourceVersion"] = record.version.to_string().into();
            let event = json!({ "type": kind, "object": object });
            record.events.push((record.version, collection.to_owned(), event));
        });
        object
    }

    /// The states of the objects of a collection.
    pub(super) fn states(&self, collection: &str) -> Vec<Value> {
        let record = self.record.borrow();
        let events = record.events.iter().filter(|(_, of, _)| of == collection);
        events.map(|(.., event)| event["object"].clone()).collect()
    }

    pub(super) fn break_watches(&self) {
        self.record.send_modify(|record| record.breaks += 1);
    }

    pub(super) fn forget(&self) {
        self.record.send_modify(|record| {
            record.version += 1;
            record.forgotten = record.version;
            record.events.clear();
        });
    }

    pub(super) fn end_watches(&self, ending: bool) {
        self.record.send_modify(|record| record.ending = ending);
    }

    /// The events of a collection after a version, one per line, until watches are broken or ended.
    pub(super) fn watch(
        &self,
        collection: &str,
        since: u64,
        metadata_only: bool,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
        let record = self.record.subscribe();
        let breaks = record.borrow().breaks;
        let collection = collection.to_owned();
        stream::unfold((record, since), move |(mut record, since)| {
            let collection = collection.clone();
            async move {
                let next = |record: &Record| {
                    if record.breaks > breaks {
                        return Some(Err(io::ErrorKind::ConnectionReset.into()));
                    }
                    if record.forgotten > since {
                        let gone = json!({ "kind": "Status", "status": "Failure", "reason": "Expired", "code": 410 });
                        return Some(Ok((record.version, json!({ "type": "ERROR", "object": gone }))));
                    }
                    let mut later =
                        record.events.iter().filter(|(version, of, _)| *version > since && *of == collection);
                    later.next().map(|(version, _, event)| Ok((*version, event.clone())))
                };
                let found = {
                    let reached = record.wait_for(|record| record.ending || next(record).is_some()).await.ok()?;
                    next(&reached)?
                };
                Some(match found {
                    Ok((version, mut event)) => {
                        if metadata_only && event["type"] != "ERROR" {
                            let metadata = super::metadata_of(&event["object"]);
                            event["object"] = metadata;
                        }
                        (Ok(Bytes::from(format!("{event}\n"))), (record, version))
                    }
                    Err(error) => (Err(error), (record, since)),
                })
            }
        })
    }
}

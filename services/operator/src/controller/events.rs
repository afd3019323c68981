//! Events about objects, for `kubectl describe`.

use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::time;

use super::error::STEP_TIMEOUT;
use api::Microservice;

/// The longest note that the API server accepts.
const MAX_NOTE: usize = 1024;

/// Writes events about objects.
pub(crate) struct Events(Recorder);

impl Events {
    pub(crate) fn new(client: Client, instance: String) -> Self {
        Self(Recorder::new(client, Reporter { controller: "hedgerow-operator".into(), instance: Some(instance) }))
    }

    pub(crate) async fn normal(&self, object: &Microservice, reason: &str, note: &str) {
        self.publish(object, EventType::Normal, reason, note).await;
    }

    pub(crate) async fn warning(&self, object: &Microservice, reason: &str, note: &str) {
        self.publish(object, EventType::Warning, reason, note).await;
    }

    /// Failing to write an event is only logged, because nothing depends on it.
    async fn publish(&self, object: &Microservice, type_: EventType, reason: &str, note: &str) {
        tracing::info!(object = object.metadata.name, reason, "{note}");
        let note = Some(note[..note.floor_char_boundary(MAX_NOTE)].to_owned());
        let event = Event { type_, reason: reason.into(), note, action: "Reconcile".into(), secondary: None };
        match time::timeout(STEP_TIMEOUT, self.0.publish(&event, &object.object_ref(&()))).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = &error as &dyn std::error::Error, "cannot write an event"),
            Err(_) => tracing::warn!("cannot write an event: the API server timed out"),
        }
    }
}

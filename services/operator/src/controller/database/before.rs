//! What the last status says of a database that cannot be verified now.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};

use super::{super::secrets::Credentials, ReadyDatabase, SERVER_CHANGED};
use api::{Microservice, MicroserviceStatus};

/// The database by its Secret alone, if the last status shows that it was ready.
pub(super) fn database(stored: &Credentials, before: Option<&MicroserviceStatus>) -> Option<ReadyDatabase> {
    let status = before?.database.as_ref()?;
    // Statuses of the first versions have only the schema version.
    if status.system_identifier.is_none() && status.schema_version.is_none() {
        return None;
    }
    Some(ReadyDatabase {
        credentials_digest: stored.digest()?,
        ca: stored.has_ca(),
        schema_version: None,
        verified_at: Timestamp::now(),
        is_exhausted: false,
        system_identifier: None,
    })
}

/// The message of the condition `DatabaseReady`, if that was true of this generation of the object.
pub(super) fn message(object: &Microservice, before: Option<&MicroserviceStatus>) -> Option<String> {
    let known = condition(before)?;
    let is_true = known.status == "True" && known.observed_generation == object.metadata.generation;
    is_true.then(|| known.message.clone())
}

/// Whether the last status shows that the service must not use the database.
pub(super) fn was_refused(before: Option<&MicroserviceStatus>) -> bool {
    const REASONS: [&str; 4] = ["DatabaseTaken", "DatabaseNotOurs", "InvalidName", SERVER_CHANGED];
    condition(before).is_some_and(|known| REASONS.contains(&known.reason.as_str()))
}

fn condition(before: Option<&MicroserviceStatus>) -> Option<&Condition> {
    before?.conditions.iter().find(|condition| condition.type_ == "DatabaseReady")
}

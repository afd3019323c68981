//! What the last status says of a database that cannot be verified now.

use k8s_openapi::jiff::Timestamp;

use super::{super::secrets::Credentials, ReadyDatabase};
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

/// The message of the condition `DatabaseReady`, if that is true of the current specification. While the object waits for
/// others that use the server, that stays so: nothing new is known.
pub(super) fn message(
    object: &Microservice,
    before: Option<&MicroserviceStatus>,
    is_unchanged: bool,
) -> Option<String> {
    let known = before?.conditions.iter().find(|condition| condition.type_ == "DatabaseReady")?;
    let is_current = is_unchanged || known.observed_generation == object.metadata.generation;
    (known.status == "True" && is_current).then(|| known.message.clone())
}

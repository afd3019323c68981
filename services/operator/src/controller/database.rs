//! The reconcile step for the database of a service.

mod before;
mod failure;
mod target;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::{self, Instant};

use super::{
    cache::{FailedDatabase, VerifiedDatabase},
    conditions::ConditionResult,
    context::Context,
    secrets::{self, Credentials},
    servers::Refusal,
};
use crate::{
    database::{Claim, DatabaseSpec, EnsureReport, Owner, Warning},
    manifests::names,
};
use api::{Database, Microservice, MicroserviceStatus, annotations};
use failure::Failure;

/// The wait before a failed request to the API server is retried.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// How long a verified database is trusted while the object is not ready.
const UNREADY_TRUST: Duration = Duration::from_secs(30);

/// How many idle sessions are ended for a migration: it needs one connection, and the service may take one again.
const MIGRATION_CONNECTIONS: i64 = 2;

/// The reason of a database that was on another server.
const SERVER_CHANGED: &str = "ServerChanged";

/// What stands for the system identifier of a server that does not reveal it.
const UNKNOWN: &str = "unknown";

/// A database that the service can use.
pub(crate) struct ReadyDatabase {
    /// A digest of the credentials.
    pub(crate) credentials_digest: String,
    /// Whether the Secret has CA certificates.
    pub(crate) ca: bool,
    /// The version of the current schema, if known.
    pub(crate) schema_version: Option<i64>,
    /// When the version was read.
    pub(crate) verified_at: Timestamp,
    /// Whether all connections of the role are in use.
    pub(crate) is_exhausted: bool,
    /// The identifier of the server, if it was verified.
    pub(crate) system_identifier: Option<String>,
}

/// Creates the Secret of the bundled server before any object needs a database, because the server waits for it.
pub(crate) async fn ensure_bundled_secret(context: &Context) {
    let Some(address) = &context.settings.bundled_server else { return };
    while let Err(error) = context.secrets.ensure_bundled(&context.settings.database_server, address).await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "cannot create the password of the bundled Postgres; retrying"
        );
        time::sleep(RETRY_DELAY).await;
    }
}

/// Ensures that the database of the object is as specified.
///
/// The database is returned too if it was ready before and could not be verified now, for example because the admin
/// cannot log in: the service's own credentials do not depend on the admin. It stays ready while the object only waits
/// for others that use the server.
pub(crate) async fn ensure(
    context: &Context,
    object: &Microservice,
    spec: &Database,
) -> (ConditionResult, Option<ReadyDatabase>) {
    let mut attempt = Attempt::default();
    let uid = object.uid().unwrap_or_default();
    let (result, is_refused) = match try_ensure(context, object, spec, &mut attempt).await {
        Ok((message, database)) => return (ConditionResult::ready("DatabaseReady", message), Some(database)),
        Err(Failure::Unverified(result)) => (result, false),
        Err(Failure::Refused(result)) => (result, true),
        Err(Failure::Waiting(result)) => {
            // What is known stays. After a change of leaders, that is only what the status says.
            return match attempt.spec.and_then(|spec| context.databases.failed(&uid, spec)) {
                Some(failed) => (failed.result, attempt.usable.filter(|_| !failed.is_refused)),
                None if before::was_refused(context.statuses.last(object).as_ref()) => (result, None),
                None => (result, attempt.usable),
            };
        }
    };
    if let Some(spec) = attempt.spec {
        context.databases.insert_failed(&uid, FailedDatabase { spec, result: result.clone(), is_refused });
    }
    (result, attempt.usable.filter(|_| !is_refused))
}

/// Makes room for a migration if the service uses all connections of its role. Otherwise a version that leaks
/// connections could not be replaced by its fix, whose migration must come first.
pub(crate) async fn make_room(context: &Context, object: &Microservice, spec: &Database) {
    let ended = async {
        let target = target::find(context, spec).await?;
        let _permit = target.enter(object).await?;
        let admin = target.open(&names::database(object, spec)).await?;
        let ended = admin.end_idle_sessions(MIGRATION_CONNECTIONS).await;
        Ok::<_, ConditionResult>(ended.inspect_err(|error| target.access.interrupted(error))?)
    };
    match ended.await {
        Ok(0) => {}
        Ok(ended) => {
            let note = format!("the role had no free connection for the migration: ended {ended} idle sessions");
            context.events.warning(object, "SessionsEnded", &note).await;
        }
        Err(result) => tracing::warn!(object = object.name_any(), reason = result.text().1, "cannot end idle sessions"),
    }
}

/// Drops the database of the object. A database that the object does not own is kept, with an event. So is one whose
/// server has no admin Secret. The last try waits until other objects have left the server, for as long as it takes.
pub(crate) async fn remove(
    context: &Context,
    object: &Microservice,
    spec: &Database,
    is_last_try: bool,
) -> Result<(), ConditionResult> {
    let target = match target::find(context, spec).await {
        Ok(target) => target,
        Err(ConditionResult::Pending("ServerSecretMissing", message)) => {
            let note = format!("the database was kept: {message}");
            context.events.warning(object, "DatabaseKept", &note).await;
            return Ok(());
        }
        Err(result) => return Err(result),
    };
    let name = names::database(object, spec);
    let owner = owner(context, object).await?;
    let _permit = if is_last_try { target.wait().await? } else { target.enter(object).await? };
    let removed = match target.open(&name).await {
        Ok(admin) => admin.remove(&owner).await.inspect_err(|error| target.access.interrupted(error)),
        Err(error) => Err(error),
    };
    match removed {
        Ok(_) => Ok(()),
        // The object never owned it.
        Err(error) if error.is_conflict() => {
            context.events.warning(object, "DatabaseKept", &error.to_string()).await;
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// What an attempt to ensure a database finds out, even if it fails.
#[derive(Default)]
struct Attempt {
    /// The database as it was before, if it was ready.
    usable: Option<ReadyDatabase>,
    /// A hash of the specification, with the server and the credentials.
    spec: Option<u64>,
}

/// Verifies the database unless that was done recently, and makes it as specified. What it finds out on the way is in
/// `attempt`.
async fn try_ensure(
    context: &Context,
    object: &Microservice,
    spec: &Database,
    attempt: &mut Attempt,
) -> Result<(String, ReadyDatabase), Failure> {
    let uid = object.uid().unwrap_or_default();
    let before = context.statuses.last(object);
    let (name, owner) = (names::database(object, spec), owner(context, object).await?);
    let stored = context.secrets.find(object, &owner).await?;
    attempt.usable = stored.as_ref().and_then(|stored| before::database(stored, before.as_ref()));

    let target = target::find(context, spec).await.map_err(Failure::Unverified)?;
    let password = stored.as_ref().and_then(Credentials::password);
    let is_new = password.is_none();
    let desired = DatabaseSpec {
        name: name.clone(),
        password: password.unwrap_or_else(secrets::password),
        connection_limit: spec.connection_limit,
        adoption: target.adoption(object, &owner, &name)?,
        owner,
    };
    let server = &target.server;
    let credentials =
        |identifier: &str| secrets::credentials(object, &desired.owner, server, identifier, (&name, &desired.password));
    let digest = secrets::digest(server.host(), &server.port().to_string(), &desired.password);
    // Until a password is stored, each attempt has another one.
    let stored_password = if is_new { "" } else { &desired.password };
    let attempted = hash(&desired, &secrets::digest(server.host(), &server.port().to_string(), stored_password));
    attempt.spec = Some(attempted);
    let hash = hash(&desired, &digest);
    let is_current = |verified: &VerifiedDatabase| {
        verified.at.elapsed() < trust(context, before.as_ref())
            && stored.as_ref().is_some_and(|stored| stored.is(&credentials(&verified.system_identifier)))
    };
    let known = context.databases.get(&uid).filter(|verified| verified.spec == hash);
    let verified_before = known.as_ref().map(|verified| verified.message.clone());
    let verified = if let Some(verified) = known.filter(is_current) {
        verified
    } else {
        let _permit = match target.enter(object).await {
            Ok(permit) => permit,
            Err(Refusal::Failed(result) | Refusal::Failing(result)) => return Err(Failure::Unverified(result)),
            Err(Refusal::Waiting(result)) => {
                // The Secret has the same server and password.
                let is_same = stored.as_ref().and_then(Credentials::digest).as_ref() == Some(&digest);
                let is_kept = is_same && context.databases.failed(&uid, attempted).is_none();
                let message = verified_before.or_else(|| before::message(object, before.as_ref()));
                let message = message.filter(|_| is_kept);
                let Some(message) = message else { return Err(Failure::Waiting(result)) };
                return attempt.usable.take().map(|usable| (message, usable)).ok_or(Failure::Waiting(result));
            }
        };
        let mut admin = target.open(&name).await?;
        let identifier = admin.system_identifier().unwrap_or(UNKNOWN).to_owned();
        let claim = admin.check(&desired).await.inspect_err(|error| target.access.interrupted(error));
        let exists = claim.as_ref().map_or(true, Claim::exists);
        if let Some(changed) = server_changed(stored.as_ref(), before.as_ref(), &identifier, exists)
            && object.annotations().get(annotations::ACCEPT_SERVER) != Some(&identifier)
        {
            return Err(Failure::Refused(ConditionResult::stalled(SERVER_CHANGED, changed)));
        }
        let claim = claim?;
        // A server that stops revealing its identifier is still the same one.
        let identifier = match known_identifier(stored.as_ref(), before.as_ref()) {
            Some(known) if identifier == UNKNOWN => known.to_owned(),
            _ => identifier,
        };
        // Up to here nothing was written, neither to the Secret nor to the server.
        context.secrets.store(stored.as_ref(), &credentials(&identifier)).await?;
        let ensured = admin.ensure(&desired, &claim).await;
        let report = ensured.inspect_err(|error| target.access.interrupted(error))?;
        record_events(context, object, before.as_ref(), is_new, &report).await;
        let warnings = report.warnings.iter().map(|warning| format!("; {warning}"));
        let verified = VerifiedDatabase {
            spec: hash,
            at: Instant::now(),
            verified_at: Timestamp::now(),
            schema_version: report.schema_version,
            is_exhausted: report.warnings.contains(&Warning::Exhausted),
            system_identifier: identifier,
            message: format!("database {name} on {server}{}", warnings.collect::<String>()),
        };
        context.databases.insert(&uid, verified.clone());
        verified
    };
    let database = ReadyDatabase {
        credentials_digest: digest,
        ca: server.ca().is_some(),
        schema_version: verified.schema_version,
        verified_at: verified.verified_at,
        is_exhausted: verified.is_exhausted,
        system_identifier: Some(verified.system_identifier),
    };
    Ok((verified.message, database))
}

/// How long a verified database is trusted. If the object is not ready, that may be because of the database.
fn trust(context: &Context, before: Option<&MicroserviceStatus>) -> Duration {
    let mut conditions = before.into_iter().flat_map(|status| &status.conditions);
    let is_ready = conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let trust = context.settings.resync / 2;
    if is_ready { trust } else { trust.min(UNREADY_TRUST) }
}

/// A message if the server with this identifier is not the one that the database was on. It has none of the data: on a
/// database that is created there, the service would be ready and empty.
fn server_changed(
    stored: Option<&Credentials>,
    before: Option<&MicroserviceStatus>,
    identifier: &str,
    exists: bool,
) -> Option<String> {
    let in_status = before.and_then(|status| status.database.as_ref()?.system_identifier.as_deref());
    let known = known_identifier(stored, before);
    let is_same = match known {
        Some(known) if known != UNKNOWN && identifier != UNKNOWN => known == identifier,
        // A database that was ready before must at least be there.
        _ => exists || in_status.is_none(),
    };
    (!is_same).then(|| {
        format!(
            "the database was on the server with the system identifier {}, but this is another server, with the system \
             identifier {identifier}: bring the old one back, or, to start over on this one with an empty database, set \
             the annotation {}: \"{identifier}\"",
            known.unwrap_or(UNKNOWN),
            annotations::ACCEPT_SERVER
        )
    })
}

/// The system identifier of the server that the database was on.
fn known_identifier<'a>(stored: Option<&'a Credentials>, before: Option<&'a MicroserviceStatus>) -> Option<&'a str> {
    let in_status = before.and_then(|status| status.database.as_ref()?.system_identifier.as_deref());
    stored.and_then(Credentials::system_identifier).or(in_status)
}

/// Records events for the changes.
async fn record_events(
    context: &Context,
    object: &Microservice,
    before: Option<&MicroserviceStatus>,
    is_new: bool,
    report: &EnsureReport,
) {
    let was_ready = before
        .is_some_and(|status| status.database.as_ref().is_some_and(|database| database.system_identifier.is_some()));
    if is_new && was_ready {
        let note = format!(
            "Secret {} was missing; created it with a new password, and the pods will be replaced",
            names::database_secret(object)
        );
        context.events.warning(object, "SecretRenewed", &note).await;
    }
    if !report.changes.is_empty() {
        context.events.normal(object, "DatabaseChanged", &report.changes.join("; ")).await;
    }
}

/// The owner that the ownership comments of the object name.
async fn owner(context: &Context, object: &Microservice) -> Result<Owner, Failure> {
    let settings = &context.settings;
    let cluster = context.cluster.uid().await?;
    Ok(Owner::new(cluster, &settings.installation, &settings.namespace, object.name_any())?)
}

fn hash(spec: &DatabaseSpec, credentials_digest: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&spec.name, spec.owner.to_string(), spec.connection_limit, format!("{:?}", spec.adoption), credentials_digest)
        .hash(&mut hasher);
    hasher.finish()
}

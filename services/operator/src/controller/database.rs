//! The reconcile step for the database of a service.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::{self, Instant};

use super::{cache::VerifiedDatabase, conditions::ConditionResult, context::Context, secrets::Credentials};
use crate::{
    database::{self, DatabaseSpec, Invalid, Owner, Server},
    manifests::names,
};
use api::{Database, Microservice, annotations};

/// The wait before a failed request to the API server is retried.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// A database that is ready for use.
pub(crate) struct ReadyDatabase {
    /// A digest of the credentials.
    pub(crate) credentials_digest: String,
    /// Whether the Secret has CA certificates.
    pub(crate) ca: bool,
    /// The version of the current schema, if known.
    pub(crate) schema_version: Option<i64>,
    /// When the version was read.
    pub(crate) verified_at: Timestamp,
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
pub(crate) async fn ensure(
    context: &Context,
    object: &Microservice,
    spec: &Database,
) -> (ConditionResult, Option<ReadyDatabase>) {
    match try_ensure(context, object, spec).await {
        Ok((message, ready_database)) => (ConditionResult::ready("DatabaseReady", message), Some(ready_database)),
        Err(result) => (result, None),
    }
}

/// Drops the database of the object. A database that the object does not own is kept, with an event. So is one whose
/// server has no admin Secret.
pub(crate) async fn remove(context: &Context, object: &Microservice, spec: &Database) -> Result<(), ConditionResult> {
    let server = match server(context, spec).await {
        Ok(server) => server,
        Err(ConditionResult::Pending("ServerSecretMissing", message)) => {
            let note = format!("the database was kept: {message}");
            context.events.warning(object, "DatabaseKept", &note).await;
            return Ok(());
        }
        Err(result) => return Err(result),
    };
    let name = names::database(object, spec);
    let owner = owner(context, object)?;
    match server.remove(&name, &owner).await {
        Ok(_) => Ok(()),
        // The object never owned it.
        Err(error) if error.is_conflict() => {
            context.events.warning(object, "DatabaseKept", &error.to_string()).await;
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

impl From<database::Error> for ConditionResult {
    fn from(error: database::Error) -> Self {
        let message = error.to_string();
        match error {
            database::Error::Unreachable { .. }
            | database::Error::TooManyConnections { .. }
            | database::Error::Sql { .. } => Self::pending(error.reason(), message),
            _ => Self::stalled(error.reason(), message),
        }
    }
}

impl From<Invalid> for ConditionResult {
    fn from(invalid: Invalid) -> Self {
        database::Error::from(invalid).into()
    }
}

async fn try_ensure(
    context: &Context,
    object: &Microservice,
    spec: &Database,
) -> Result<(String, ReadyDatabase), ConditionResult> {
    let uid = object.uid().unwrap_or_default();
    let (name, owner) = (names::database(object, spec), owner(context, object)?);
    let server = server(context, spec).await?;
    let credentials = context.secrets.ensure(object, &owner, &server, &name).await?;
    let desired = DatabaseSpec {
        name: name.clone(),
        owner,
        password: credentials.password.clone(),
        connection_limit: spec.connection_limit,
        adoption: object
            .annotations()
            .get(annotations::ADOPT)
            .map(|text| text.parse())
            .transpose()?
            .unwrap_or_default(),
    };
    let digest = credentials.digest(&server);
    let hash = hash(&desired, &digest);
    let verified = match context.databases.get(&uid) {
        Some(verified) if verified.spec == hash && verified.at.elapsed() < context.settings.resync / 2 => verified,
        _ => {
            let report = server.ensure(&desired).await?;
            record_events(context, object, &credentials, &report).await;
            let schema_version = server.schema_version(&name, &desired.password).await?;
            let warnings = report.warnings.iter().map(|warning| format!("; {warning}"));
            let message = format!("database {name} on {server}{}", warnings.collect::<String>());
            let (at, verified_at) = (Instant::now(), Timestamp::now());
            let verified = VerifiedDatabase { spec: hash, at, verified_at, schema_version, message };
            context.databases.insert(&uid, verified.clone());
            verified
        }
    };
    Ok((
        verified.message,
        ReadyDatabase {
            credentials_digest: digest,
            ca: server.ca().is_some(),
            schema_version: verified.schema_version,
            verified_at: verified.verified_at,
        },
    ))
}

/// Records events for the changes.
async fn record_events(
    context: &Context,
    object: &Microservice,
    credentials: &Credentials,
    report: &database::EnsureReport,
) {
    let existed = context.statuses.last(object).is_some_and(|status| status.database.is_some());
    if credentials.new && existed {
        let note = format!(
            "Secret {} was missing; created it with a new password, and the pods will be replaced",
            credentials.secret
        );
        context.events.warning(object, "SecretRenewed", &note).await;
    }
    if !report.changes.is_empty() {
        context.events.normal(object, "DatabaseChanged", &report.changes.join("; ")).await;
    }
}

/// The server of the object's database.
async fn server(context: &Context, spec: &Database) -> Result<Server, ConditionResult> {
    let name = spec.server.as_ref().unwrap_or(&context.settings.database_server);
    let data = match &context.settings.bundled_server {
        Some(address) if *name == context.settings.database_server => {
            Some(context.secrets.ensure_bundled(name, address).await?)
        }
        _ => context.secrets.read(name).await?,
    };
    let Some(data) = data else {
        let message = format!("Secret {name} for the database server does not exist: create it with the key `url`");
        return Err(ConditionResult::pending("ServerSecretMissing", message));
    };
    let url = data.get("url").or_else(|| data.get("uri")).and_then(|url| std::str::from_utf8(&url.0).ok());
    let ca = data.get("ca.crt").map(|ca| ca.0.as_slice());
    let Some(url) = url else {
        let message = format!("Secret {name} lacks the key `url` or `uri`: set it to the Postgres URL of an admin");
        return Err(ConditionResult::stalled("ServerSecretInvalid", message));
    };
    Server::new(url, ca)
        .map_err(|error| ConditionResult::stalled("ServerSecretInvalid", format!("Secret {name}: {error}")))
}

fn owner(context: &Context, object: &Microservice) -> Result<Owner, Invalid> {
    Owner::new(&context.settings.installation, &context.settings.namespace, object.name_any())
}

fn hash(spec: &DatabaseSpec, credentials_digest: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&spec.name, spec.owner.to_string(), spec.connection_limit, format!("{:?}", spec.adoption), credentials_digest)
        .hash(&mut hasher);
    hasher.finish()
}

//! The step that gives a service its database.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::{self, Instant};

use super::{Context, conditions::Finding, credentials::Credentials, error::Error, events};
use crate::{
    database::{self, Invalid, Mark, Server, Wanted},
    manifests::names,
};
use api::{Database, Microservice};

/// The wait before the API server is asked again.
const PAUSE: Duration = Duration::from_secs(2);

/// Permits a database to be taken over: `unmarked`, as after a restore, or the mark of the object that had it.
const ADOPT: &str = "hedgerow.dev/adopt";

/// What is known of the databases that were found in order.
#[derive(Default)]
pub(crate) struct Databases(Mutex<HashMap<String, Verified>>);

#[derive(Clone)]
struct Verified {
    wanted: u64,
    at: Instant,
    /// The same by the clock, to compare with what others did.
    looked_at: Timestamp,
    schema_version: Option<i64>,
    message: String,
}

impl Databases {
    fn get(&self, uid: &str) -> Option<Verified> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned()
    }

    /// Forgets an object's, so that it is looked at anew.
    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    fn verified(&self, uid: &str, verified: Verified) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), verified);
    }
}

/// A database that can be used.
pub(crate) struct Usable {
    /// Changes with the password.
    pub(crate) credentials: String,
    /// Whether the Secret has a certificate.
    pub(crate) ca: bool,
    /// Of the live schema, where it can be told.
    pub(crate) schema_version: Option<i64>,
    /// When that was so.
    pub(crate) looked_at: Timestamp,
}

/// Gives the bundled server its password before any object asks for a database: without it, it does not start.
pub(crate) async fn prepare_bundled(context: &Context) {
    let Some(address) = &context.settings.bundled_server else { return };
    context.leading().await;
    while let Err(error) = context.secrets.bundled(&context.settings.database_server, address).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "the bundled Postgres still waits for its password");
        time::sleep(PAUSE).await;
    }
}

/// Sees to it that the object has its database, as it asks for it.
pub(crate) async fn ensure(context: &Context, object: &Microservice, spec: &Database) -> (Finding, Option<Usable>) {
    match try_ensure(context, object, spec).await {
        Ok((message, usable)) => (Finding::good("DatabaseReady", message), Some(usable)),
        Err(Trouble(finding)) => (finding, None),
    }
}

/// Drops the object's database. What is not the object's, or cannot be reached for want of the admin's Secret, is left
/// where it is, with an event that says so.
pub(crate) async fn remove(context: &Context, object: &Microservice, spec: &Database) -> Result<(), Finding> {
    let server = match server(context, spec).await {
        Ok(server) => server,
        Err(Trouble(Finding::Pending("ServerSecretMissing", message))) => {
            let note = format!("the database is left where it is: {message}");
            context.events.warning(object, "DatabaseLeft", &note).await;
            return Ok(());
        }
        Err(Trouble(finding)) => return Err(finding),
    };
    let name = names::database(object, spec);
    let mark = mark(context, object).map_err(|invalid| Trouble::from(invalid).0)?;
    match server.remove(&name, &mark).await {
        Ok(_) => Ok(()),
        // It never was this object's, which is why nothing was made.
        Err(error) if error.is_conflict() => {
            context.events.warning(object, "DatabaseLeft", &error.to_string()).await;
            Ok(())
        }
        Err(error) => Err(Trouble::from(error).0),
    }
}

struct Trouble(Finding);

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self(error.finding())
    }
}

impl From<database::Error> for Trouble {
    fn from(error: database::Error) -> Self {
        let message = error.to_string();
        Self(match error {
            database::Error::Unreachable { .. }
            | database::Error::TooManyConnections { .. }
            | database::Error::Sql { .. } => Finding::pending(error.reason(), message),
            _ => Finding::wrong(error.reason(), message),
        })
    }
}

impl From<database::Invalid> for Trouble {
    fn from(invalid: database::Invalid) -> Self {
        database::Error::from(invalid).into()
    }
}

async fn try_ensure(context: &Context, object: &Microservice, spec: &Database) -> Result<(String, Usable), Trouble> {
    let uid = object.uid().unwrap_or_default();
    let (name, mark) = (names::database(object, spec), mark(context, object)?);
    let server = server(context, spec).await?;
    let credentials = context.secrets.ensure(object, &mark, &server, &name).await?;
    let wanted = Wanted {
        name: name.clone(),
        mark,
        password: credentials.password.clone(),
        connection_limit: spec.connection_limit,
        adopt: object.annotations().get(ADOPT).map(|text| text.parse()).transpose()?.unwrap_or_default(),
    };
    let digest = credentials.digest(&server);
    let hash = hash(&wanted, &digest);
    let verified = match context.databases.get(&uid) {
        Some(verified) if verified.wanted == hash && verified.at.elapsed() < context.settings.resync / 2 => verified,
        _ => {
            let ensured = server.ensure(&wanted).await?;
            tell(context, object, &credentials, &ensured).await;
            let schema_version = server.schema_version(&name, &wanted.password).await?;
            let warnings = ensured.warnings.iter().map(|warning| format!("; {warning}"));
            let message = format!("database {name} on {server}{}", warnings.collect::<String>());
            let (at, looked_at) = (Instant::now(), Timestamp::now());
            let verified = Verified { wanted: hash, at, looked_at, schema_version, message };
            context.databases.verified(&uid, verified.clone());
            verified
        }
    };
    Ok((
        verified.message,
        Usable {
            credentials: digest,
            ca: server.ca().is_some(),
            schema_version: verified.schema_version,
            looked_at: verified.looked_at,
        },
    ))
}

/// Events for what had to be done.
async fn tell(context: &Context, object: &Microservice, credentials: &Credentials, ensured: &database::Ensured) {
    let taken_up = context.statuses.last(object).is_some_and(|status| status.database.is_some());
    if credentials.new && taken_up {
        let note =
            format!("Secret {} was gone: a new password was made, and the pods are replaced", credentials.secret);
        context.events.warning(object, "SecretRenewed", &note).await;
    }
    if !ensured.done.is_empty() {
        context.events.normal(object, events::DATABASE, &ensured.done.join("; ")).await;
    }
}

/// The server that the object's database is on.
async fn server(context: &Context, spec: &Database) -> Result<Server, Trouble> {
    let name = spec.server.as_ref().unwrap_or(&context.settings.database_server);
    let data = match &context.settings.bundled_server {
        Some(address) if *name == context.settings.database_server => {
            Some(context.secrets.bundled(name, address).await?)
        }
        _ => context.secrets.read(name).await?,
    };
    let Some(data) = data else {
        let message = format!("Secret {name}, which opens the database server, does not exist");
        return Err(Trouble(Finding::pending("ServerSecretMissing", message)));
    };
    let url = data.get("url").or_else(|| data.get("uri")).and_then(|url| std::str::from_utf8(&url.0).ok());
    let ca = data.get("ca.crt").map(|ca| ca.0.as_slice());
    let Some(url) = url else {
        let message = format!("Secret {name} has no key `url` (or `uri`) with the Postgres URL of an admin");
        return Err(Trouble(Finding::wrong("ServerSecretInvalid", message)));
    };
    Server::new(url, ca)
        .map_err(|error| Trouble(Finding::wrong("ServerSecretInvalid", format!("Secret {name}: {error}"))))
}

fn mark(context: &Context, object: &Microservice) -> Result<Mark, Invalid> {
    Mark::new(&context.settings.installation, &context.settings.namespace, object.name_any())
}

fn hash(wanted: &Wanted, credentials: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&wanted.name, wanted.mark.to_string(), wanted.connection_limit, format!("{:?}", wanted.adopt), credentials)
        .hash(&mut hasher);
    hasher.finish()
}

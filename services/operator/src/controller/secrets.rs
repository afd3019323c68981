//! Secrets: the admin credentials of a database server, and the credentials of each service.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use rand::{Rng, distr::Alphanumeric};
use sha2::{Digest, Sha256};

use super::error::{Error, with_timeout};
use crate::{
    database::{Owner, Server},
    manifests::names,
};
use api::{DeletionPolicy, Microservice, annotations};

/// The length of a password: 32 characters out of 62 are 190 bits.
const PASSWORD_LENGTH: usize = 32;

/// The credentials of a service's database.
pub(crate) struct Credentials {
    pub(crate) secret: String,
    pub(crate) password: String,
    /// Whether the password was generated just now.
    pub(crate) new: bool,
}

impl Credentials {
    /// A digest that changes with the password and the server and reveals neither.
    pub(crate) fn digest(&self, server: &Server) -> String {
        format!("{:.16x}", Sha256::digest(format!("{}\n{}\n{}", server.host(), server.port(), self.password)))
    }
}

/// The Secrets of the operator's namespace. Their data is read one by one; `watches` only watches metadata.
pub(crate) struct Secrets(Api<Secret>);

impl Secrets {
    pub(crate) fn new(client: Client, namespace: &str) -> Self {
        Self(Api::namespaced(client, namespace))
    }

    /// Reads the data of a Secret if it exists.
    pub(crate) async fn read(&self, name: &str) -> Result<Option<BTreeMap<String, ByteString>>, Error> {
        let secret = with_timeout("read a Secret", self.0.get_opt(name)).await?;
        Ok(secret.map(|secret| secret.data.unwrap_or_default()))
    }

    /// Returns the data of the Secret of the bundled server at `address`. Creates it, with a superuser password, if it
    /// does not exist. The bundled server does not start before that.
    pub(crate) async fn ensure_bundled(
        &self,
        name: &str,
        address: &str,
    ) -> Result<BTreeMap<String, ByteString>, Error> {
        if let Some(data) = self.read(name).await? {
            return Ok(data);
        }
        let password = password();
        let url = format!("postgres://postgres:{password}@{address}/postgres");
        let data = [("url", url), ("username", "postgres".to_owned()), ("password", password)];
        let labels = [("app.kubernetes.io/part-of", "hedgerow"), ("app.kubernetes.io/managed-by", "hedgerow-operator")];
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
                ..ObjectMeta::default()
            },
            data: Some(data.map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes()))).into()),
            ..Secret::default()
        };
        // Like the data that it gives access to, it has no owner and outlives the operator.
        match with_timeout("create a Secret", self.0.create(&PostParams::default(), &secret)).await {
            // It was created meanwhile.
            Err(error) if error.is_conflict() => Ok(self.read(name).await?.unwrap_or_default()),
            result => {
                let created = result?;
                tracing::info!(secret = name, "created the password of the bundled Postgres");
                Ok(created.data.unwrap_or_default())
            }
        }
    }

    /// Returns the credentials of the object's database `database` on `server`. Generates them if they do not exist,
    /// and stores them before the database sees them, so that no password in use is lost.
    ///
    /// # Errors
    /// Returns [`Error::Conflict`] if the Secret belongs to something else.
    pub(crate) async fn ensure(
        &self,
        object: &Microservice,
        owner: &Owner,
        server: &Server,
        database: &str,
    ) -> Result<Credentials, Error> {
        let name = names::database_secret(object);
        let existing = with_timeout("read a Secret", self.0.get_opt(&name)).await?;
        if let Some(existing) = &existing
            && existing.annotations().get(annotations::OWNERSHIP) != Some(&owner.to_string())
        {
            return Err(Error::Conflict { kind: "Secret".to_owned(), name });
        }
        let found = existing.as_ref().and_then(|secret| text(secret.data.as_ref()?.get("password")?));
        let new = found.is_none();
        let password = found.unwrap_or_else(password);
        let desired = secret(object, owner, data(server, database, &password));
        match &existing {
            None => match with_timeout("create a Secret", self.0.create(&PostParams::default(), &desired)).await {
                // It was created meanwhile, and the next reconcile reads it.
                Err(error) if error.is_conflict() => return Err(error),
                result => drop(result?),
            },
            Some(existing) if differs(existing, &desired) => {
                let patch = Patch::Merge(&desired);
                with_timeout("update a Secret", self.0.patch(&name, &PatchParams::default(), &patch)).await?;
            }
            Some(_) => {}
        }
        Ok(Credentials { secret: name, password, new })
    }
}

/// The desired Secret. Under `Retain` it has no owner reference, so that it outlives the object.
fn secret(object: &Microservice, owner: &Owner, data: BTreeMap<String, ByteString>) -> Secret {
    let deletes =
        object.spec.database.as_ref().is_some_and(|database| database.deletion_policy == DeletionPolicy::Delete);
    Secret {
        metadata: ObjectMeta {
            name: Some(names::database_secret(object)),
            labels: Some(crate::manifests::labels(object, "database")),
            annotations: Some([(annotations::OWNERSHIP.to_owned(), owner.to_string())].into()),
            // An empty list makes the merge patch remove the owner that another policy set.
            owner_references: Some(deletes.then(|| object.controller_owner_ref(&())).flatten().into_iter().collect()),
            ..ObjectMeta::default()
        },
        data: Some(data),
        ..Secret::default()
    }
}

fn data(server: &Server, database: &str, password: &str) -> BTreeMap<String, ByteString> {
    let mut data: BTreeMap<String, ByteString> = [
        ("url", server.url(database, password)),
        ("username", database.to_owned()),
        ("password", password.to_owned()),
        ("host", server.host().to_owned()),
        ("port", server.port().to_string()),
        ("dbname", database.to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes())))
    .into();
    if let Some(ca) = server.ca() {
        data.insert("ca.crt".to_owned(), ByteString(ca.to_vec()));
    }
    data
}

fn differs(existing: &Secret, desired: &Secret) -> bool {
    let owners = |secret: &Secret| {
        let owners = secret.metadata.owner_references.iter().flatten();
        owners.map(|owner| owner.uid.clone()).collect::<Vec<_>>()
    };
    let has = |desired: &BTreeMap<String, ByteString>| {
        let existing = existing.data.as_ref();
        desired.iter().all(|(key, value)| existing.and_then(|data| data.get(key)) == Some(value))
    };
    !desired.data.as_ref().is_none_or(has)
        || owners(existing) != owners(desired)
        || !desired.labels().iter().all(|(key, value)| existing.labels().get(key) == Some(value))
}

fn text(bytes: &ByteString) -> Option<String> {
    String::from_utf8(bytes.0.clone()).ok().filter(|text| !text.is_empty())
}

fn password() -> String {
    rand::rng().sample_iter(Alphanumeric).take(PASSWORD_LENGTH).map(char::from).collect()
}

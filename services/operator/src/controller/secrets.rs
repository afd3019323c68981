//! Secrets: the admin credentials of a database server, the credentials of each service, and the key of the issuer.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use rand::{Rng, distr::Alphanumeric};
use sha2::{Digest, Sha256};

use super::{
    error::{Error, with_timeout},
    known_secrets::{KnownSecrets, Metadata},
};
use crate::{
    database::{Owner, Server},
    manifests::names,
};
use api::{DeletionPolicy, Microservice, annotations, labels};

/// The length of a password: 32 characters out of 62 are 190 bits.
const PASSWORD_LENGTH: usize = 32;
/// The length of the key of the issuer, for AES-256.
const KEK_LENGTH: usize = 32;

/// The Secret with the credentials of a service's database.
pub(crate) struct Credentials(Secret);

impl Credentials {
    pub(crate) fn password(&self) -> Option<String> {
        self.text("password")
    }

    /// The system identifier of the server that they are for, if it was written already.
    pub(crate) fn system_identifier(&self) -> Option<&str> {
        self.0.annotations().get(annotations::SERVER).map(String::as_str)
    }

    /// See [`digest`]; `None` if the Secret is incomplete.
    pub(crate) fn digest(&self) -> Option<String> {
        self.text("url")?;
        Some(digest(&self.text("host")?, &self.text("port")?, &self.password()?))
    }

    /// Whether there are CA certificates.
    pub(crate) fn has_ca(&self) -> bool {
        self.text("ca.crt").is_some()
    }

    /// Whether the Secret is as specified.
    pub(crate) fn is(&self, desired: &Secret) -> bool {
        let existing = &self.0;
        let owners = |secret: &Secret| {
            let owners = secret.metadata.owner_references.iter().flatten();
            owners.map(|owner| owner.uid.clone()).collect::<Vec<_>>()
        };
        let has = |desired: &BTreeMap<String, ByteString>| {
            let existing = existing.data.as_ref();
            desired.iter().all(|(key, value)| existing.and_then(|data| data.get(key)) == Some(value))
        };
        let contains = |existing: &BTreeMap<String, String>, desired: &BTreeMap<String, String>| {
            desired.iter().all(|(key, value)| existing.get(key) == Some(value))
        };
        desired.data.as_ref().is_none_or(has)
            && owners(existing) == owners(desired)
            && contains(existing.labels(), desired.labels())
            && contains(existing.annotations(), desired.annotations())
    }

    fn text(&self, key: &str) -> Option<String> {
        text(self.0.data.as_ref()?.get(key)?)
    }
}

/// A digest of credentials that changes with the password and the server and reveals neither.
pub(crate) fn digest(host: &str, port: &str, password: &str) -> String {
    format!("{:.16x}", Sha256::digest(format!("{host}\n{port}\n{password}")))
}

/// The Secrets of the operator's namespace. Their data is read one by one, and again only if the watch of their metadata
/// reports another version.
pub(crate) struct Secrets {
    api: Api<Secret>,
    pub(crate) known: KnownSecrets,
}

impl Secrets {
    pub(crate) fn new(client: Client, namespace: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), known: KnownSecrets::default() }
    }

    /// Reads a Secret if it exists.
    pub(crate) async fn get(&self, name: &str) -> Result<Option<Secret>, Error> {
        if let Some(secret) = self.known.current(name) {
            return Ok(Some(secret));
        }
        let found = with_timeout("read a Secret", self.api.get_opt(name)).await?;
        if let Some(secret) = &found {
            self.known.insert(secret.clone());
        }
        Ok(found)
    }

    /// The metadata of a Secret if it exists.
    pub(crate) async fn metadata(&self, name: &str) -> Result<Option<Metadata>, Error> {
        if self.known.are_listed() {
            return Ok(self.known.metadata(name));
        }
        let found = with_timeout("read the metadata of a Secret", self.api.get_metadata_opt(name)).await?;
        Ok(found.map(|found| Metadata::of(&found.metadata)))
    }

    /// Reads the data of a Secret if it exists.
    pub(crate) async fn read(&self, name: &str) -> Result<Option<BTreeMap<String, ByteString>>, Error> {
        Ok(self.get(name).await?.map(|secret| secret.data.unwrap_or_default()))
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
        let data = data.map(|(key, value)| (key, value.into_bytes()));
        let mut secret = unowned(name, data);
        secret.labels_mut().insert(labels::SERVER.to_owned(), "true".to_owned());
        // Like the data that it gives access to, it has no owner and outlives the operator.
        match with_timeout("create a Secret", self.api.create(&PostParams::default(), &secret)).await {
            // It was created meanwhile.
            Err(error) if error.is_conflict() => Ok(self.read(name).await?.unwrap_or_default()),
            result => {
                let created = result?;
                tracing::info!(secret = name, "created the password of the bundled Postgres");
                self.known.insert(created.clone());
                Ok(created.data.unwrap_or_default())
            }
        }
    }

    /// Creates the key that seals the keys of the issuer, if it does not exist. A lost one is not replaced by anything
    /// that could open what it sealed: the issuer then refuses the new one.
    pub(crate) async fn ensure_kek(&self) -> Result<(), Error> {
        if self.metadata(names::KEK_SECRET).await?.is_some() {
            return Ok(());
        }
        let key: [u8; KEK_LENGTH] = rand::random();
        // Like the keys that it seals, it has no owner and outlives the operator.
        let secret = unowned(names::KEK_SECRET, [(names::KEK_FILE, key.to_vec())]);
        match with_timeout("create a Secret", self.api.create(&PostParams::default(), &secret)).await {
            // It was created meanwhile.
            Err(error) if error.is_conflict() => Ok(()),
            result => {
                result?;
                tracing::info!(secret = names::KEK_SECRET, "created the key that seals the keys of the issuer");
                Ok(())
            }
        }
    }

    /// Reads the credentials of the object's database if they exist.
    ///
    /// # Errors
    /// Returns [`Error::Conflict`] if the Secret belongs to something else.
    pub(crate) async fn find(&self, object: &Microservice, owner: &Owner) -> Result<Option<Credentials>, Error> {
        let name = names::database_secret(object);
        let Some(secret) = self.get(&name).await? else { return Ok(None) };
        // The first versions wrote no cluster. A Secret is of this cluster anyway.
        let owners = [owner.to_string(), owner.without_cluster().to_string()];
        match secret.annotations().get(annotations::OWNERSHIP) {
            Some(found) if owners.contains(found) => Ok(Some(Credentials(secret))),
            _ => Err(Error::Conflict { kind: "Secret".to_owned(), name }),
        }
    }

    /// Stores credentials, before the database sees them: no password in use is lost. Writes nothing if `existing` is
    /// as specified.
    pub(crate) async fn store(&self, existing: Option<&Credentials>, desired: &Secret) -> Result<(), Error> {
        let stored = match existing {
            // If it was created meanwhile, that is an error, and the next reconcile reads it.
            None => with_timeout("create a Secret", self.api.create(&PostParams::default(), desired)).await?,
            Some(existing) if !existing.is(desired) => {
                let mut desired = desired.clone();
                // If it was replaced since it was read, that is an error too.
                desired.metadata.resource_version.clone_from(&existing.0.metadata.resource_version);
                let (name, parameters, patch) = (desired.name_any(), PatchParams::default(), Patch::Merge(desired));
                with_timeout("update a Secret", self.api.patch(&name, &parameters, &patch)).await?
            }
            Some(_) => return Ok(()),
        };
        self.known.insert(stored);
        Ok(())
    }
}

/// A Secret that has no owner.
fn unowned<const N: usize>(name: &str, data: [(&str, Vec<u8>); N]) -> Secret {
    let labels = [("app.kubernetes.io/part-of", "hedgerow"), ("app.kubernetes.io/managed-by", "hedgerow-operator")];
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        },
        data: Some(data.map(|(key, value)| (key.to_owned(), ByteString(value))).into()),
        ..Secret::default()
    }
}

/// The desired Secret of credentials. Under `Retain` it has no owner reference, so that it outlives the object.
pub(crate) fn credentials(
    object: &Microservice,
    owner: &Owner,
    server: &Server,
    system_identifier: &str,
    (database, password): (&str, &str),
) -> Secret {
    let deletes =
        object.spec.database.as_ref().is_some_and(|database| database.deletion_policy == DeletionPolicy::Delete);
    let annotations =
        [(annotations::OWNERSHIP, owner.to_string()), (annotations::SERVER, system_identifier.to_owned())];
    Secret {
        metadata: ObjectMeta {
            name: Some(names::database_secret(object)),
            labels: Some(crate::manifests::labels(object, "database")),
            annotations: Some(annotations.map(|(key, value)| (key.to_owned(), value)).into()),
            // An empty list makes the merge patch remove the owner that another policy set.
            owner_references: Some(deletes.then(|| object.controller_owner_ref(&())).flatten().into_iter().collect()),
            ..ObjectMeta::default()
        },
        data: Some(data(server, database, password)),
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

fn text(bytes: &ByteString) -> Option<String> {
    String::from_utf8(bytes.0.clone()).ok().filter(|text| !text.is_empty())
}

/// A new password.
pub(crate) fn password() -> String {
    rand::rng().sample_iter(Alphanumeric).take(PASSWORD_LENGTH).map(char::from).collect()
}

//! The Secrets: the one that opens a database server as its admin, and each service's own.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use rand::{Rng, distr::Alphanumeric};

use sha2::{Digest, Sha256};

use super::error::{Error, within};
use crate::{
    database::{Mark, Server},
    manifests::names,
};
use api::{DeletionPolicy, Microservice};

/// Says whose database a Secret opens; the same text as on the database itself.
const MARK: &str = "hedgerow.dev/mark";

/// The length of a password: 32 of 62 characters are 190 bits.
const PASSWORD_LENGTH: usize = 32;

/// What opens a service's database.
pub(crate) struct Credentials {
    pub(crate) secret: String,
    pub(crate) password: String,
    /// True when the Secret was not there.
    pub(crate) new: bool,
}

impl Credentials {
    /// Changes when the password or the server does, and tells nothing about either.
    pub(crate) fn digest(&self, server: &Server) -> String {
        format!("{:.16x}", Sha256::digest(format!("{}\n{}\n{}", server.host(), server.port(), self.password)))
    }
}

/// The Secrets of the operator's namespace. They are read one by one: it may not list them.
pub(crate) struct Secrets(Api<Secret>);

impl Secrets {
    pub(crate) fn new(client: Client, namespace: &str) -> Self {
        Self(Api::namespaced(client, namespace))
    }

    /// The data of a Secret, if it exists.
    pub(crate) async fn read(&self, name: &str) -> Result<Option<BTreeMap<String, ByteString>>, Error> {
        let secret = within("reading a Secret", self.0.get_opt(name)).await?;
        Ok(secret.map(|secret| secret.data.unwrap_or_default()))
    }

    /// The data of the Secret of the server that runs beside the operator, at `address`; where there is none it is made,
    /// with a password for the superuser, who has not started yet for want of it.
    pub(crate) async fn bundled(&self, name: &str, address: &str) -> Result<BTreeMap<String, ByteString>, Error> {
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
        // Like the data it opens, it has no owner, and outlives what made it.
        match within("creating a Secret", self.0.create(&PostParams::default(), &secret)).await {
            // Made meanwhile.
            Err(error) if error.is_conflict() => Ok(self.read(name).await?.unwrap_or_default()),
            made => {
                let made = made?;
                tracing::info!(secret = name, "made a password for the bundled Postgres");
                Ok(made.data.unwrap_or_default())
            }
        }
    }

    /// The credentials of the object's database `database` on `server`. Where there are none yet they are made, and
    /// stored before the database gets to know them: a password that was set is never lost.
    ///
    /// # Errors
    /// [`Error::Taken`] where the Secret is somebody else's.
    pub(crate) async fn ensure(
        &self,
        object: &Microservice,
        mark: &Mark,
        server: &Server,
        database: &str,
    ) -> Result<Credentials, Error> {
        let name = names::credentials(object);
        let there = within("reading a Secret", self.0.get_opt(&name)).await?;
        if let Some(there) = &there
            && there.annotations().get(MARK) != Some(&mark.to_string())
        {
            return Err(Error::Taken { kind: "Secret".to_owned(), name });
        }
        let found = there.as_ref().and_then(|secret| text(secret.data.as_ref()?.get("password")?));
        let new = found.is_none();
        let password = found.unwrap_or_else(password);
        let wanted = secret(object, mark, data(server, database, &password));
        match &there {
            None => match within("creating a Secret", self.0.create(&PostParams::default(), &wanted)).await {
                // Made meanwhile: the next time it is read.
                Err(error) if error.is_conflict() => return Err(error),
                result => drop(result?),
            },
            Some(there) if differs(there, &wanted) => {
                let patch = Patch::Merge(&wanted);
                within("writing a Secret", self.0.patch(&name, &PatchParams::default(), &patch)).await?;
            }
            Some(_) => {}
        }
        Ok(Credentials { secret: name, password, new })
    }
}

/// The Secret as it should be. Under `Retain` it has no owner, so that it outlives the object.
fn secret(object: &Microservice, mark: &Mark, data: BTreeMap<String, ByteString>) -> Secret {
    let deletes =
        object.spec.database.as_ref().is_some_and(|database| database.deletion_policy == DeletionPolicy::Delete);
    Secret {
        metadata: ObjectMeta {
            name: Some(names::credentials(object)),
            labels: Some(crate::manifests::labels(object, "database")),
            annotations: Some([(MARK.to_owned(), mark.to_string())].into()),
            // An empty list, so that a merge takes away the owner that another policy gave.
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

fn differs(there: &Secret, wanted: &Secret) -> bool {
    let owners = |secret: &Secret| {
        let owners = secret.metadata.owner_references.iter().flatten();
        owners.map(|owner| owner.uid.clone()).collect::<Vec<_>>()
    };
    let has = |wanted: &BTreeMap<String, ByteString>| {
        let there = there.data.as_ref();
        wanted.iter().all(|(key, value)| there.and_then(|data| data.get(key)) == Some(value))
    };
    !wanted.data.as_ref().is_none_or(has)
        || owners(there) != owners(wanted)
        || !wanted.labels().iter().all(|(key, value)| there.labels().get(key) == Some(value))
}

fn text(bytes: &ByteString) -> Option<String> {
    String::from_utf8(bytes.0.clone()).ok().filter(|text| !text.is_empty())
}

fn password() -> String {
    rand::rng().sample_iter(Alphanumeric).take(PASSWORD_LENGTH).map(char::from).collect()
}

//! The server of an object's database, as its Secret describes it.

use std::sync::Arc;

use kube::ResourceExt;

use super::super::{
    conditions::ConditionResult,
    context::Context,
    secrets::Secrets,
    servers::{Access, Permit, Refusal},
};
use crate::database::{self, AdminSession, Adoption, Invalid, Owner, Server};
use api::{Database, Microservice, annotations};

/// A server, as its Secret describes it.
pub(super) struct Target<'a> {
    secret: &'a str,
    secrets: &'a Secrets,
    pub(super) server: Server,
    pub(super) access: Arc<Access>,
    /// The entries of the key `adopt`.
    adopt: String,
}

/// The server of the object's database.
pub(super) async fn find<'a>(context: &'a Context, spec: &'a Database) -> Result<Target<'a>, ConditionResult> {
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
    let text = |key: &str| data.get(key).and_then(|value| std::str::from_utf8(&value.0).ok());
    let Some(url) = text("url").or_else(|| text("uri")) else {
        let message = format!("Secret {name} lacks the key `url` or `uri`: set it to the Postgres URL of an admin");
        return Err(ConditionResult::stalled("ServerSecretInvalid", message));
    };
    let server = Server::new(url, data.get("ca.crt").map(|ca| ca.0.as_slice()))
        .map_err(|error| ConditionResult::stalled("ServerSecretInvalid", format!("Secret {name}: {error}")))?;
    let adopt = text("adopt").unwrap_or_default().to_owned();
    Ok(Target { secret: name, secrets: &context.secrets, server, access: context.servers.access(&data), adopt })
}

impl Target<'_> {
    /// Lets the object use the server: see [`Access::enter`].
    pub(super) async fn enter(&self, object: &Microservice) -> Result<Permit<'_>, Refusal> {
        let entered = self.access.enter(&self.server, &object.name_any()).await;
        entered.inspect_err(|refusal| self.refused(refusal))
    }

    /// Waits until the server can be used: see [`Access::wait`].
    pub(super) async fn wait(&self) -> Result<Permit<'_>, Refusal> {
        self.access.wait(&self.server).await.inspect_err(|refusal| self.refused(refusal))
    }

    fn refused(&self, refusal: &Refusal) {
        if matches!(refusal, Refusal::Failed(_)) {
            self.secrets.known.forget(self.secret);
        }
    }

    /// Logs in as the admin. A failure is remembered for all objects of the server.
    pub(super) async fn open(&self, database: &str) -> Result<AdminSession<'_>, database::Error> {
        let opened = AdminSession::open(&self.server, database).await;
        opened.inspect_err(|error| {
            self.access.login_failed(error);
            // The watch may not have reported a new URL.
            self.secrets.known.forget(self.secret);
        })
    }

    /// What the object may adopt. Its annotation alone has no effect: whoever may write an object could take any
    /// database of the server.
    pub(super) fn adoption(&self, object: &Microservice, owner: &Owner, database: &str) -> Result<Adoption, Invalid> {
        let Some(asked) = object.annotations().get(annotations::ADOPT) else { return Ok(Adoption::None) };
        let asked: Adoption = asked.parse()?;
        let entry = owner.adoption_entry(database);
        let is_permitted = self.adopt.split([' ', ',', '\n', '\r', '\t']).any(|permitted| permitted == entry);
        Ok(if is_permitted { asked } else { Adoption::None })
    }
}

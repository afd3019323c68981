//! Which Secrets the variables of an object may name.
//!
//! Pods get what `env` names, from any Secret of the namespace. Whoever may write a `Microservice` must not become the
//! superuser of a database server that way, nor another service, nor an issuer of tokens. A Secret of a server that no
//! object uses is known by its label.

use std::sync::Arc;

use super::{conditions::ConditionResult, context::Context};
use crate::manifests::names::{CREDENTIALS_SUFFIX, KEK_SECRET, database_secret};
use api::Microservice;

/// The Secrets that the variables of an object name.
pub(crate) fn names(object: &Microservice) -> impl Iterator<Item = &str> {
    references(object).map(|(_, secret)| secret)
}

/// The variables that come from Secrets, each with the name of its Secret.
fn references(object: &Microservice) -> impl Iterator<Item = (&str, &str)> {
    object.spec.env.iter().filter_map(|variable| {
        let source = variable.value_from.as_ref()?.secret_key_ref.as_ref()?;
        Some((variable.name.as_str(), source.name.as_str()))
    })
}

/// Refuses an object whose variables name the Secret of a database server, the credentials of another service, or the
/// key of the issuer.
pub(crate) async fn check(
    context: &Context,
    object: &Microservice,
    siblings: &[Arc<Microservice>],
) -> Result<(), ConditionResult> {
    for (variable, secret) in references(object) {
        if let Some(content) = refusal(context, object, siblings, secret).await? {
            let message =
                format!("the variable {variable} comes from the Secret {secret}, which {content}: remove it from env");
            return Err(ConditionResult::stalled("SecretRefused", message));
        }
    }
    Ok(())
}

/// What a Secret contains that the object may not have.
async fn refusal(
    context: &Context,
    object: &Microservice,
    siblings: &[Arc<Microservice>],
    name: &str,
) -> Result<Option<&'static str>, ConditionResult> {
    const ADMIN: &str = "has the admin credentials of a database server";
    const CREDENTIALS: &str = "is for the database credentials of a service";
    if name == KEK_SECRET {
        return Ok(Some("has the key that seals the keys of the issuer"));
    }
    if name == context.settings.database_server {
        return Ok(Some(ADMIN));
    }
    let is_named = siblings
        .iter()
        .any(|sibling| sibling.spec.database.as_ref().and_then(|database| database.server.as_deref()) == Some(name));
    let is_own = object.spec.database.is_some() && name == database_secret(object);
    let is_suspect = is_named || (!is_own && name.ends_with(CREDENTIALS_SUFFIX));
    let Some(metadata) = context.secrets.metadata(name).await? else {
        return Ok(is_suspect.then_some(if is_named { ADMIN } else { CREDENTIALS }));
    };
    if metadata.is_server {
        return Ok(Some(ADMIN));
    }
    // The name alone proves little: an object can call any Secret its server, and a user's Secret any name.
    if is_suspect && metadata.is_owned {
        return Ok((!is_own).then_some(CREDENTIALS));
    }
    Ok((is_named && has_url(context, name).await?).then_some(ADMIN))
}

async fn has_url(context: &Context, name: &str) -> Result<bool, ConditionResult> {
    let data = context.secrets.read(name).await?.unwrap_or_default();
    Ok(["url", "uri"].iter().any(|key| data.contains_key(*key)))
}

//! Which Secrets the variables of an object may name.
//!
//! Pods get what `env` names, from any Secret of the namespace. Whoever may write a `Microservice` must not become the
//! superuser of a database server that way, nor another service.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

use super::{conditions::ConditionResult, context::Context};
use crate::manifests::names::{CREDENTIALS_SUFFIX, database_secret};
use api::{Microservice, annotations};

/// Refuses an object whose variables name the Secret of a database server, or the credentials of another service.
pub(crate) async fn check(
    context: &Context,
    object: &Microservice,
    siblings: &[Arc<Microservice>],
) -> Result<(), ConditionResult> {
    for variable in &object.spec.env {
        let source = variable.value_from.as_ref().and_then(|source| source.secret_key_ref.as_ref());
        let Some(secret) = source.map(|source| source.name.as_str()) else { continue };
        if let Some(content) = refusal(context, object, siblings, secret).await? {
            let message = format!(
                "the variable {} comes from the Secret {secret}, which {content}: remove it from env",
                variable.name
            );
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
    if name == context.settings.database_server {
        return Ok(Some(ADMIN));
    }
    let is_server = siblings
        .iter()
        .any(|sibling| sibling.spec.database.as_ref().and_then(|database| database.server.as_deref()) == Some(name));
    let is_own = object.spec.database.is_some() && name == database_secret(object);
    if !is_server && (is_own || !name.ends_with(CREDENTIALS_SUFFIX)) {
        return Ok(None);
    }
    // The name alone proves little: an object can call any Secret its server, and a user's Secret any name.
    let Some(secret) = context.secrets.get(name).await? else {
        return Ok(Some(if is_server { ADMIN } else { CREDENTIALS }));
    };
    Ok(match secret.annotations().get(annotations::OWNERSHIP) {
        Some(_) if is_own => None,
        Some(_) => Some(CREDENTIALS),
        None if is_server && has_url(&secret) => Some(ADMIN),
        None => None,
    })
}

fn has_url(secret: &Secret) -> bool {
    secret.data.as_ref().is_some_and(|data| ["url", "uri"].iter().any(|key| data.contains_key(*key)))
}

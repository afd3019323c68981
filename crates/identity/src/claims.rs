//! What the claims of a token must be, and the caller that they make.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::{
    caller::{Caller, Scopes, role_scopes},
    config::Mapping,
    issuer::Issuer,
    refusal::Reason,
    token::{Claims, Parts},
};

/// How far clocks may differ, in seconds.
pub(crate) const SKEW: u64 = 30;

/// The latest time that is told apart: the end of the year 9999, in seconds since 1970.
const END_OF_TIME: f64 = 253_402_300_799.0;

/// The maximum length of a subject, in bytes (OpenID Connect Core 1.0, section 2).
const MAX_SUBJECT: usize = 255;

/// Checks what does not depend on the signature. Returns when the token expires, in seconds since 1970.
pub(crate) fn check(claims: &Claims<'_>, issuer: &Issuer, now: Duration) -> Result<u64, Reason> {
    let config = &issuer.config;
    if claims.are_of_event() || claims.are_of_id_token() && !config.accept_id_tokens {
        return Err(Reason::WrongType);
    }
    if !claims.aud.0.iter().any(|audience| config.audience.0.iter().any(|own| own == audience)) {
        return Err(Reason::WrongAudience);
    }
    let expires = seconds(claims.exp.ok_or(Reason::InvalidClaims)?)?;
    let now = now.as_secs();
    if now >= expires.saturating_add(SKEW) {
        return Err(Reason::Expired);
    }
    for start in [claims.nbf, claims.iat].into_iter().flatten() {
        if seconds(start)? > now + SKEW {
            return Err(Reason::NotYetValid);
        }
    }
    Ok(expires)
}

/// A time of a token (`NumericDate` in RFC 7519) in whole seconds.
fn seconds(date: f64) -> Result<u64, Reason> {
    let date = Duration::try_from_secs_f64(date.min(END_OF_TIME)).map_err(|_| Reason::InvalidClaims)?;
    Ok(date.as_secs())
}

/// Builds the caller from the claims of a verified token.
pub(crate) fn caller(parts: &Parts<'_>, claims: &Claims<'_>, issuer: &Issuer, expires: u64) -> Result<Caller, Reason> {
    let subject = claims.sub.as_deref().ok_or(Reason::InvalidClaims)?;
    if subject.is_empty() || subject.len() > MAX_SUBJECT || subject.chars().any(char::is_control) {
        return Err(Reason::InvalidClaims);
    }
    let client = claims.client_id.as_ref().or(claims.azp.as_ref());
    let roles = texts(parts, issuer.config.roles.as_ref(), |text| vec![text])?;
    let scopes = texts(parts, issuer.config.scopes.as_ref(), |text| text.split(' ').map(str::to_owned).collect())?;
    let implied = roles.iter().flat_map(|role| role_scopes(role)).copied();
    Ok(Caller {
        issuer: issuer.name.clone(),
        kind: issuer.config.kind,
        subject: subject.into(),
        client: client.map(|client| client.as_ref().into()),
        session: claims.sid.as_ref().and_then(|session| session.parse().ok()),
        scopes: scopes.iter().map(String::as_str).chain(implied).collect::<Scopes>(),
        roles: roles.iter().map(|role| role.as_str().into()).collect(),
        expires_at: SystemTime::UNIX_EPOCH + Duration::from_secs(expires),
    })
}

/// Returns the texts that a claim stands for. What is not a text stands for nothing.
fn texts(
    parts: &Parts<'_>,
    mapping: Option<&Mapping>,
    split: impl FnOnce(String) -> Vec<String>,
) -> Result<Vec<String>, Reason> {
    let Some(Mapping { claim, map }) = mapping else { return Ok(Vec::new()) };
    let texts = match parts.claim(claim)? {
        Some(Value::String(text)) => split(text),
        Some(Value::Array(list)) => list
            .into_iter()
            .filter_map(|value| if let Value::String(text) = value { Some(text) } else { None })
            .collect(),
        _ => Vec::new(),
    };
    Ok(match map {
        None => texts,
        Some(map) => texts.iter().filter_map(|text| map.get(text)).flat_map(|texts| texts.0.iter().cloned()).collect(),
    })
}

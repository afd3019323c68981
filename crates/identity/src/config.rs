//! The configuration of an issuer.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::key::Algorithm;

/// An issuer whose tokens are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The issuer, exactly as in the claim `iss` of its tokens. It has no spaces and no control characters.
    pub issuer: String,
    /// Where its keys are: an `http`, `https` or `file` URL. If unset, it is discovered below the issuer (OpenID Connect
    /// Discovery 1.0, RFC 8414).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// The audiences that are accepted: a token must name one of them. If empty, the process's own. A token of a service
    /// may always name the process itself: that is what it is for if the one calls the other.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub audience: OneOrMany,
    /// The algorithms that its keys may have. A key that names none has the first of these that fits it.
    #[serde(default = "Algorithm::all")]
    pub algorithms: Vec<Algorithm>,
    /// What its tokens are about.
    #[serde(default)]
    pub kind: Kind,
    /// The types that are accepted (the header `typ`), without the prefix `application/`; an empty text stands for a
    /// token without a type. If unset: `at+jwt` from an issuer of users (RFC 9068), `JWT` and none from one of services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typ: Option<Vec<String>>,
    /// Whether its ID tokens are accepted too. Some issuers, such as dex, have no other access tokens.
    #[serde(default)]
    pub accept_id_tokens: bool,
    /// Where the scopes are. If unset: `scope` of an issuer of users, nowhere of one of services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Mapping>,
    /// Where the roles are. If unset: `roles` of an issuer of users (RFC 9068), nowhere of one of services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Mapping>,
}

/// What the tokens of an issuer are about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// People, and the clients that act for them.
    #[default]
    User,
    /// Services, such as the service accounts of a cluster.
    Service,
}

/// How a claim becomes scopes or roles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// The name of the claim, or a JSON pointer to it such as `/realm_access/roles`. Its value is a list of texts or one
    /// text; a text with scopes is split at spaces.
    pub claim: String,
    /// What each value stands for. Values that are not listed stand for nothing. If unset, values stand for themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<BTreeMap<String, OneOrMany>>,
}

/// A list of texts, which may be written as one text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Texts", into = "Vec<String>")]
pub struct OneOrMany(pub Vec<String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

impl From<Texts> for OneOrMany {
    fn from(texts: Texts) -> Self {
        match texts {
            Texts::One(text) => Self(vec![text]),
            Texts::Many(texts) => Self(texts),
        }
    }
}

impl From<OneOrMany> for Vec<String> {
    fn from(texts: OneOrMany) -> Self {
        texts.0
    }
}

impl OneOrMany {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl IssuerConfig {
    /// Whether a token of this type is accepted. Types are compared without regard to case (RFC 7515, section 4.1.9).
    pub(crate) fn accepts_type(&self, typ: &str) -> bool {
        let typ = match typ.split_at_checked("application/".len()) {
            Some((prefix, rest)) if prefix.eq_ignore_ascii_case("application/") => rest,
            _ => typ,
        };
        match (&self.typ, self.kind) {
            (Some(accepted), _) => accepted.iter().any(|accepted| accepted.eq_ignore_ascii_case(typ)),
            (None, Kind::User) => typ.eq_ignore_ascii_case("at+jwt"),
            (None, Kind::Service) => typ.is_empty() || typ.eq_ignore_ascii_case("JWT"),
        }
    }
}

/// Parses a list of issuers. Those without an audience get this one.
///
/// # Errors
/// Returns an error if the list is not valid JSON, has unknown members, or has an issuer that is invalid or listed twice.
pub fn parse(text: &str, audience: &str) -> anyhow::Result<Vec<IssuerConfig>> {
    let mut issuers: Vec<IssuerConfig> = serde_json::from_str(text)?;
    let mut names = BTreeSet::new();
    for config in &mut issuers {
        let name = config.issuer.clone();
        ensure!(!name.is_empty(), "an issuer must not be empty");
        let is_plain = !name.contains(|c: char| c.is_whitespace() || c.is_control());
        ensure!(is_plain, "the issuer {name:?} has a space or a control character; remove it");
        ensure!(names.insert(name.clone()), "the issuer {name} is listed twice");
        config.validate(audience).with_context(|| format!("issuer {name}"))?;
    }
    Ok(issuers)
}

impl IssuerConfig {
    fn validate(&mut self, audience: &str) -> anyhow::Result<()> {
        let is_http = |url: &str| url.starts_with("http://") || url.starts_with("https://");
        match &self.jwks_url {
            Some(url) => {
                ensure!(
                    is_http(url) || url.starts_with("file:///"),
                    "jwks_url must be an http, https or file:///PATH URL"
                );
            }
            None => ensure!(is_http(&self.issuer), "jwks_url is needed, because the issuer is not an http(s) URL"),
        }
        let is_own_missing = !self.audience.0.iter().any(|accepted| accepted == audience);
        if self.audience.is_empty() || self.kind == Kind::Service && is_own_missing {
            self.audience.0.push(audience.to_owned());
        }
        ensure!(self.audience.0.iter().all(|audience| !audience.is_empty()), "an audience must not be empty");
        ensure!(!self.algorithms.is_empty(), "algorithms must not be empty");
        if self.kind == Kind::User {
            let claim = |name: &str| Mapping { claim: name.to_owned(), map: None };
            self.scopes.get_or_insert_with(|| claim("scope"));
            self.roles.get_or_insert_with(|| claim("roles"));
        }
        Ok(())
    }
}

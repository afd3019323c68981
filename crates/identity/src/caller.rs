//! Who sent a request, and what they may do.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use uuid::Uuid;

use crate::{claims::SKEW, config::Kind};

/// The role that may do everything.
pub const ADMIN: &str = "admin";

/// The role of people who use the product.
pub const USER: &str = "user";

/// The scopes of each role. A token's scopes are those it names and those of its roles.
const ROLE_SCOPES: [(&str, &[&str]); 2] =
    [(ADMIN, &["inventory:write", "reservations:write", "users:read", "users:write"]), (USER, &["reservations:write"])];

/// Returns the scopes of a role; none for an unknown role.
#[must_use]
pub fn role_scopes(role: &str) -> &'static [&'static str] {
    ROLE_SCOPES.iter().find(|(name, _)| *name == role).map_or(&[], |(_, scopes)| scopes)
}

/// A set of scopes (RFC 6749, section 3.3).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scopes(Box<[Box<str>]>);

/// The sender of a request, as its verified token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub(crate) issuer: Arc<str>,
    pub(crate) kind: Kind,
    pub(crate) subject: Box<str>,
    pub(crate) client: Option<Box<str>>,
    pub(crate) session: Option<Uuid>,
    pub(crate) scopes: Scopes,
    pub(crate) roles: Box<[Box<str>]>,
    pub(crate) expires_at: SystemTime,
}

/// The identity of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The request has no token.
    Anonymous,
    /// The request has a token, which is valid.
    Caller(Arc<Caller>),
}

impl Identity {
    /// Returns the caller; `None` if the request has no token.
    #[must_use]
    pub fn caller(&self) -> Option<&Arc<Caller>> {
        match self {
            Self::Anonymous => None,
            Self::Caller(caller) => Some(caller),
        }
    }
}

impl Caller {
    /// Returns the issuer of the token.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Returns whether the caller is a user or a service.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the subject, which is unique within its issuer: the id of a user or client, or the name of a service
    /// account. It is not empty and has no control characters.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Returns the client that the token was issued to, if the token says so.
    #[must_use]
    pub fn client(&self) -> Option<&str> {
        self.client.as_deref()
    }

    /// Returns the session that the token belongs to, if it has one with a UUID.
    #[must_use]
    pub fn session(&self) -> Option<Uuid> {
        self.session
    }

    /// Returns the scopes, including those of the roles.
    #[must_use]
    pub fn scopes(&self) -> &Scopes {
        &self.scopes
    }

    /// Returns the roles.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.iter().map(|role| &**role)
    }

    /// Returns when the token expires.
    #[must_use]
    pub fn expires_at(&self) -> SystemTime {
        self.expires_at
    }

    /// Returns until when the token is accepted: until it expires, with 30 s for clocks that differ.
    #[must_use]
    pub fn accepted_until(&self) -> SystemTime {
        self.expires_at + Duration::from_secs(SKEW)
    }

    /// Returns whether the caller has a scope. An administrator has every scope.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.contains(scope) || self.is_admin()
    }

    /// Returns whether the caller has a role.
    #[must_use]
    pub fn has_role(&self, role: &str) -> bool {
        self.roles().any(|own| own == role)
    }

    /// Returns whether the caller is an administrator.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.has_role(ADMIN)
    }

    /// Returns the namespace and the name of the service account that the caller is, if it is one of a Kubernetes
    /// cluster.
    #[must_use]
    pub fn service_account(&self) -> Option<(&str, &str)> {
        if self.kind != Kind::Service {
            return None;
        }
        self.subject.strip_prefix("system:serviceaccount:")?.split_once(':')
    }
}

impl Scopes {
    /// Returns whether a scope is in the set.
    #[must_use]
    pub fn contains(&self, scope: &str) -> bool {
        self.iter().any(|own| own == scope)
    }

    /// Returns the scopes in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|scope| &**scope)
    }

    /// Returns whether there are no scopes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Parses scopes that are separated by spaces.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        text.split(' ').collect()
    }
}

impl<'a> FromIterator<&'a str> for Scopes {
    fn from_iter<I: IntoIterator<Item = &'a str>>(scopes: I) -> Self {
        let mut scopes: Vec<&str> = scopes.into_iter().filter(|scope| !scope.is_empty()).collect();
        scopes.sort_unstable();
        scopes.dedup();
        Self(scopes.into_iter().map(Box::from).collect())
    }
}

/// Writes the scopes separated by spaces, as in the claim `scope`.
impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, scope) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            f.write_str(scope)?;
        }
        Ok(())
    }
}

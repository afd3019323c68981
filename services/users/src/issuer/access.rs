//! Access tokens (RFC 9068), and the response that carries them.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use http::{HeaderValue, header};
use identity::Scopes;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::RefreshToken;

/// The client of tokens that come from a password.
pub(crate) const PASSWORD_CLIENT: &str = "hedgerow";

/// The audience of access tokens: the services of this installation.
const AUDIENCE: &str = identity::DEFAULT_AUDIENCE;

/// What an access token is to say.
pub(crate) struct Grant<'a> {
    /// The user or client.
    pub(crate) subject: Uuid,
    pub(crate) client: &'a str,
    pub(crate) scopes: Scopes,
    pub(crate) roles: Vec<&'a str>,
    /// `None` for a client that acts for itself.
    pub(crate) session: Option<GrantSession>,
}

/// The session of a user.
pub(crate) struct GrantSession {
    pub(crate) refresh: RefreshToken,
    /// When the user entered the password.
    pub(crate) since: DateTime<Utc>,
}

/// The claims of an access token.
#[derive(Serialize)]
pub(super) struct Claims<'a> {
    iss: &'a str,
    sub: Uuid,
    aud: &'static str,
    client_id: &'a str,
    exp: u64,
    iat: u64,
    jti: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_time: Option<i64>,
    scope: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    roles: Vec<&'a str>,
}

impl<'a> Grant<'a> {
    /// The grant of a user's session: the scopes of the roles.
    pub(crate) fn of_user(subject: Uuid, roles: &'a [String], session: GrantSession) -> Self {
        let roles = with_user(roles);
        let scopes = scopes_of(&roles);
        Self { subject, client: PASSWORD_CLIENT, scopes, roles, session: Some(session) }
    }

    /// Whether a user with these roles can get these scopes.
    pub(crate) fn allows(roles: &[String], requested: &str) -> bool {
        is_part_of(&Scopes::parse(requested), &scopes_of(&with_user(roles)))
    }

    /// Narrows the scopes to the requested ones (RFC 6749, section 3.3). A token with fewer scopes than its roles have
    /// names no roles, because verifiers add their scopes. Returns `None` if it asks for more than there is.
    pub(crate) fn narrow(mut self, requested: &str) -> Option<Self> {
        let requested = Scopes::parse(requested);
        if !is_part_of(&requested, &self.scopes) {
            return None;
        }
        if requested != self.scopes {
            self.roles.clear();
        }
        self.scopes = requested;
        Some(self)
    }

    pub(super) fn claims(&self, issuer: &'a str, lifetime: Duration) -> Claims<'_> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Claims {
            iss: issuer,
            sub: self.subject,
            aud: AUDIENCE,
            client_id: self.client,
            exp: now + lifetime.as_secs(),
            iat: now,
            jti: Uuid::new_v4(),
            sid: self.session.as_ref().map(|session| session.refresh.session),
            auth_time: self.session.as_ref().map(|session| session.since.timestamp()),
            scope: self.scopes.to_string(),
            roles: self.roles.clone(),
        }
    }
}

/// All roles of a user: `user`, which every user has, and those that are stored.
fn with_user(stored: &[String]) -> Vec<&str> {
    [identity::USER].into_iter().chain(stored.iter().map(String::as_str)).collect()
}

fn scopes_of(roles: &[&str]) -> Scopes {
    roles.iter().flat_map(|role| identity::role_scopes(role)).copied().collect()
}

/// Whether scopes are some of these.
fn is_part_of(requested: &Scopes, scopes: &Scopes) -> bool {
    !requested.is_empty() && requested.iter().all(|scope| scopes.contains(scope))
}

/// A response with tokens (RFC 6749, section 5.1).
#[derive(Serialize, ToSchema)]
pub(crate) struct TokenResponse {
    access_token: String,
    #[schema(examples("Bearer"))]
    token_type: &'static str,
    /// How long the access token is valid, in seconds.
    expires_in: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    refresh_token: Option<String>,
    /// The scopes of the access token, separated by spaces.
    scope: String,
}

impl TokenResponse {
    pub(super) fn new(
        access_token: String,
        lifetime: Duration,
        refresh_token: Option<String>,
        scopes: &Scopes,
    ) -> Self {
        let (token_type, expires_in) = ("Bearer", lifetime.as_secs());
        Self { access_token, token_type, expires_in, refresh_token, scope: scopes.to_string() }
    }
}

impl fmt::Debug for TokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenResponse").field("scope", &self.scope).finish_non_exhaustive()
    }
}

/// The header of responses with tokens or secrets: no cache may keep them.
pub(crate) const NO_STORE: [(header::HeaderName, HeaderValue); 1] =
    [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];

impl IntoResponse for TokenResponse {
    fn into_response(self) -> Response {
        (NO_STORE, axum::Json(self)).into_response()
    }
}

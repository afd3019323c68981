//! Why a request is refused, and the response that says so (RFC 6750, section 3).

use http::{HeaderName, HeaderValue, StatusCode, header};
use runtime::Problem;

use crate::caller::Scopes;

/// Why a request is refused. It holds nothing of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 400: there are several `Authorization` headers.
    #[error("the request has more than one Authorization header")]
    SeveralTokens,
    /// 401: there is no token, but one is needed.
    #[error("the request needs a token")]
    NoToken,
    /// 401: the token is invalid.
    #[error("the token is invalid: {0}")]
    InvalidToken(Reason),
    /// 403: the caller lacks one of these scopes.
    #[error("the caller does not have the scopes that this needs: {0}")]
    InsufficientScope(Scopes),
    /// 403: the caller lacks a role or is not the owner.
    #[error("the caller may not do this")]
    Forbidden,
    /// 403: the caller is a service that is not among those that may call this one.
    #[error("the service {0} may not call this one; add it to `network.allowFrom`, or this one to its `calls`")]
    NotAdmitted(Box<str>),
    /// 503: the keys of the issuer have never been read.
    #[error("the keys of the token's issuer are not available yet")]
    KeysUnavailable,
}

/// Why a token is invalid. The names are stable: clients and metrics see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It is not a JWT in compact form, or its header or claims are not strict JSON.
    #[error("malformed")]
    Malformed,
    /// It is larger than 8 KiB.
    #[error("too-large")]
    TooLarge,
    /// Its header names extensions that must be understood (`crit`).
    #[error("critical-extension")]
    CriticalExtension,
    /// Its issuer is not configured.
    #[error("unknown-issuer")]
    UnknownIssuer,
    /// Its key is not among the issuer's.
    #[error("unknown-key")]
    UnknownKey,
    /// Its header names another algorithm than the key's.
    #[error("wrong-algorithm")]
    WrongAlgorithm,
    /// It is of another type than an access token, such as an ID token.
    #[error("wrong-type")]
    WrongType,
    /// Its signature is wrong.
    #[error("wrong-signature")]
    WrongSignature,
    /// A claim is missing or of the wrong type.
    #[error("invalid-claims")]
    InvalidClaims,
    /// It is for another audience.
    #[error("wrong-audience")]
    WrongAudience,
    /// It has expired.
    #[error("expired")]
    Expired,
    /// It is not valid yet.
    #[error("not-yet-valid")]
    NotYetValid,
    /// Its session has ended, or its subject is gone.
    #[error("revoked")]
    Revoked,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 13] = [
        Self::Malformed,
        Self::TooLarge,
        Self::CriticalExtension,
        Self::UnknownIssuer,
        Self::UnknownKey,
        Self::WrongAlgorithm,
        Self::WrongType,
        Self::WrongSignature,
        Self::InvalidClaims,
        Self::WrongAudience,
        Self::Expired,
        Self::NotYetValid,
        Self::Revoked,
    ];
}

impl Refusal {
    /// 403 for a scope.
    #[must_use]
    pub fn insufficient_scope(scope: &str) -> Self {
        Self::InsufficientScope(Scopes::parse(scope))
    }

    /// Returns the name of the refusal in metrics and logs. It is stable.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::SeveralTokens => "several-tokens",
            Self::NoToken => "no-token",
            Self::InvalidToken(Reason::Revoked) => "revoked",
            Self::InvalidToken(_) => "invalid-token",
            Self::InsufficientScope(_) => "insufficient-scope",
            Self::Forbidden => "forbidden",
            Self::NotAdmitted(_) => "not-admitted",
            Self::KeysUnavailable => "keys-unavailable",
        }
    }

    /// Returns the HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::SeveralTokens => StatusCode::BAD_REQUEST,
            Self::NoToken | Self::InvalidToken(_) => StatusCode::UNAUTHORIZED,
            Self::InsufficientScope(_) | Self::Forbidden | Self::NotAdmitted(_) => StatusCode::FORBIDDEN,
            Self::KeysUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Returns the value of `WWW-Authenticate`, if the response has one.
    #[must_use]
    pub fn challenge(&self) -> Option<HeaderValue> {
        let challenge = match self {
            Self::SeveralTokens => HeaderValue::from_static(r#"Bearer error="invalid_request""#),
            // Without an error code, because the client sent no token (RFC 6750, section 3.1).
            Self::NoToken => HeaderValue::from_static("Bearer"),
            Self::InvalidToken(_) => HeaderValue::from_static(r#"Bearer error="invalid_token""#),
            Self::InsufficientScope(scopes) => {
                let challenge = format!(r#"Bearer error="insufficient_scope", scope="{scopes}""#);
                challenge.try_into().unwrap_or(HeaderValue::from_static(r#"Bearer error="insufficient_scope""#))
            }
            Self::Forbidden | Self::NotAdmitted(_) | Self::KeysUnavailable => return None,
        };
        Some(challenge)
    }

    /// Returns the headers of the response that its body does not imply.
    pub fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        self.challenge().map(|challenge| (header::WWW_AUTHENTICATE, challenge)).into_iter()
    }
}

/// The refusal is also the problem's cause, by which the record of refusals recognizes it.
impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (status, detail) = (refusal.status(), refusal.to_string());
        let problem = match &refusal {
            Refusal::SeveralTokens | Refusal::NoToken | Refusal::Forbidden | Refusal::NotAdmitted(_) => {
                Self::new(status, detail)
            }
            Refusal::InvalidToken(reason) => {
                Self::with_kind(status, "invalid-token", detail).with("reason", reason.to_string())
            }
            Refusal::InsufficientScope(scopes) => {
                Self::with_kind(status, "insufficient-scope", detail).with("scope", scopes.to_string())
            }
            Refusal::KeysUnavailable => Self::unavailable(detail),
        };
        let problem = refusal.headers().fold(problem, |problem, (name, value)| problem.with_header(name, value));
        problem.caused_by(refusal)
    }
}

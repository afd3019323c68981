//! Errors in the form that OAuth prescribes (RFC 6749, section 5.2).

use axum::response::{IntoResponse, Response};
use chassis::Problem;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{error::Error, issuer::NO_STORE};

/// Why a request for a token failed.
#[derive(Debug)]
pub(in crate::routes) enum OAuthError {
    InvalidRequest(&'static str),
    InvalidClient,
    InvalidGrant,
    UnsupportedGrantType,
    UnsupportedTokenType,
    InvalidScope,
    /// The service failed or is not an issuer, which OAuth has no code for.
    Other(Error),
}

/// The body of an error.
#[derive(Serialize, ToSchema)]
pub(in crate::routes) struct OAuthErrorBody {
    #[schema(examples("invalid_grant"))]
    error: &'static str,
    error_description: &'static str,
}

impl From<Error> for OAuthError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl IntoResponse for OAuthError {
    fn into_response(self) -> Response {
        let (status, error, error_description) = match self {
            Self::Other(error) => return Problem::from(error).into_response(),
            Self::InvalidRequest(description) => (StatusCode::BAD_REQUEST, "invalid_request", description),
            Self::InvalidClient => (StatusCode::UNAUTHORIZED, "invalid_client", "client authentication failed"),
            Self::InvalidGrant => {
                (StatusCode::BAD_REQUEST, "invalid_grant", "the refresh token is invalid, or its session has ended")
            }
            Self::UnsupportedGrantType => (
                StatusCode::BAD_REQUEST,
                "unsupported_grant_type",
                "the grant type must be refresh_token or client_credentials",
            ),
            Self::UnsupportedTokenType => (
                StatusCode::BAD_REQUEST,
                "unsupported_token_type",
                "only refresh tokens can be revoked; access tokens expire within minutes",
            ),
            Self::InvalidScope => {
                (StatusCode::BAD_REQUEST, "invalid_scope", "the client or user does not have all of these scopes")
            }
        };
        let body = axum::Json(OAuthErrorBody { error, error_description });
        let mut response = (status, NO_STORE, body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static(r#"Basic realm="oauth2""#);
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

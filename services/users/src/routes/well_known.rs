//! The documents in which standard clients and verifiers look for the endpoints and keys of an issuer.

use axum::{extract::State, response::IntoResponse};
use http::{HeaderName, HeaderValue, header};
use serde_json::{Value, json};

use crate::{error::Error, state::Users};

/// Shorter than the time for which a new key is published before it signs.
const CACHE: [(HeaderName, HeaderValue); 1] =
    [(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"))];

/// Get the metadata of the issuer (OpenID Connect Discovery)
#[utoipa::path(
    get,
    path = "/.well-known/openid-configuration",
    operation_id = "getOpenidConfiguration",
    tag = "auth",
    security(()),
    responses(
        (status = OK, description = "The metadata.", body = Object),
        (status = NOT_FOUND, description = "This service issues no tokens."),
    ),
)]
pub(super) async fn openid_configuration(State(users): State<Users>) -> Result<impl IntoResponse, Error> {
    metadata(&users)
}

/// Get the metadata of the issuer (RFC 8414)
#[utoipa::path(
    get,
    path = "/.well-known/oauth-authorization-server",
    operation_id = "getAuthorizationServer",
    tag = "auth",
    security(()),
    responses(
        (status = OK, description = "The metadata.", body = Object),
        (status = NOT_FOUND, description = "This service issues no tokens."),
    ),
)]
pub(super) async fn authorization_server(State(users): State<Users>) -> Result<impl IntoResponse, Error> {
    metadata(&users)
}

/// Get the public keys of the issuer (RFC 7517)
#[utoipa::path(
    get,
    path = "/.well-known/jwks.json",
    operation_id = "getKeys",
    tag = "auth",
    security(()),
    responses(
        (status = OK, description = "The keys.", body = Object),
        (status = NOT_FOUND, description = "This service issues no tokens."),
    ),
)]
pub(super) async fn jwks(State(users): State<Users>) -> Result<impl IntoResponse, Error> {
    let keys = users.issuer()?.keys()?;
    Ok((CACHE, axum::Json(keys.jwks())))
}

fn metadata(users: &Users) -> Result<impl IntoResponse + use<>, Error> {
    let issuer = &users.issuer()?.url;
    let metadata: Value = json!({
        "issuer": issuer,
        "jwks_uri": format!("{issuer}/.well-known/jwks.json"),
        "token_endpoint": format!("{issuer}/oauth2/token"),
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
        "revocation_endpoint": format!("{issuer}/oauth2/revoke"),
        "revocation_endpoint_auth_methods_supported": ["none"],
        "grant_types_supported": ["refresh_token", "client_credentials"],
        // Required, although there is no authorization endpoint.
        "response_types_supported": [],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "scopes_supported": identity::role_scopes(identity::ADMIN),
    });
    Ok((CACHE, axum::Json(metadata)))
}

//! `POST /oauth2/revoke`.

use axum::extract::State;
use http::StatusCode;
use utoipa::ToSchema;

use super::{
    error::{OAuthError, OAuthErrorBody},
    form::Form,
};
use crate::{
    audit::Actor, client_address::Origin, error::Error, issuer::PASSWORD_CLIENT, state::Users, store::session,
};

/// The form of a revocation, for the documentation.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(in crate::routes) struct RevocationForm {
    /// A refresh token. Its session ends.
    token: String,
    /// Not needed.
    #[schema(required = false)]
    token_type_hint: Option<String>,
}

/// Revoke a refresh token (no effect if it is not valid)
#[utoipa::path(
    post,
    path = "/oauth2/revoke",
    operation_id = "revokeToken",
    tag = "auth",
    security(()),
    request_body(content = RevocationForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = OK, description = "The token is not valid anymore."),
        (status = BAD_REQUEST, description = "The request is refused (RFC 7009).", body = OAuthErrorBody),
        (status = NOT_FOUND, description = "This service issues no tokens."),
    ),
)]
pub(in crate::routes) async fn revoke(
    State(users): State<Users>,
    origin: Origin,
    form: Form,
) -> Result<StatusCode, OAuthError> {
    let issuer = users.issuer()?;
    let token = form.get("token").ok_or(OAuthError::InvalidRequest("token is missing"))?;
    if token.bytes().filter(|byte| *byte == b'.').count() == 2 {
        // Such as an access token. To say that it is revoked would be wrong.
        return Err(OAuthError::UnsupportedTokenType);
    }
    // An old token of the session revokes it too.
    let Some(token) = issuer.read_refresh_token(token)? else { return Ok(StatusCode::OK) };
    let work = async |connection: &mut sqlx::PgConnection| session::end(connection, token.session, None).await;
    if let Some(subject) = users.database.change(work).await.map_err(Error::from_write)? {
        let subject = subject.to_string();
        let actor = Actor { subject: Some(&subject), client: Some(PASSWORD_CLIENT) };
        issuer.audit.change("session_ended", &actor, token.session, &origin);
    }
    Ok(StatusCode::OK)
}

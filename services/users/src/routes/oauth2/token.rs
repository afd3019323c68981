//! `POST /oauth2/token`.

use axum::extract::State;
use http::HeaderMap;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    client::Credentials,
    error::{OAuthError, OAuthErrorBody},
    form::Form,
};
use crate::{
    audit::Outcome,
    client_address::Origin,
    error::Error,
    issuer::{Grant, GrantSession, Issuer, PASSWORD_CLIENT, RefreshToken, TokenResponse},
    state::Users,
    store::session,
};

/// The form of a request for tokens, for the documentation.
#[derive(ToSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(in crate::routes) struct TokenForm {
    /// `refresh_token` or `client_credentials`.
    grant_type: String,
    /// For the grant type `refresh_token`.
    #[schema(required = false)]
    refresh_token: Option<String>,
    /// The scopes to get, separated by spaces; if omitted, all that the client or user has.
    #[schema(required = false)]
    scope: Option<String>,
    /// For the grant type `client_credentials`, unless the client authenticates with HTTP Basic.
    #[schema(required = false)]
    client_id: Option<String>,
    #[schema(required = false)]
    client_secret: Option<String>,
}

/// Get tokens
///
/// A refresh token is exchanged for an access token and the next refresh token. Repeating an exchange within 10 s
/// returns the same refresh token again. An older one ends the session.
#[utoipa::path(
    post,
    path = "/oauth2/token",
    operation_id = "getToken",
    tag = "auth",
    security(()),
    request_body(content = TokenForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = OK, description = "The tokens.", body = TokenResponse),
        (status = BAD_REQUEST, description = "The request is refused (RFC 6749, section 5.2).", body = OAuthErrorBody),
        (status = UNAUTHORIZED, description = "The client could not be authenticated.", body = OAuthErrorBody),
        (status = NOT_FOUND, description = "This service issues no tokens."),
    ),
)]
pub(in crate::routes) async fn token(
    State(users): State<Users>,
    origin: Origin,
    headers: HeaderMap,
    form: Form,
) -> Result<TokenResponse, OAuthError> {
    let issuer = users.issuer()?;
    issuer.keys()?;
    let credentials = Credentials::read(&headers, &form)?;
    match form.get("grant_type") {
        Some("refresh_token") => refresh(&users, issuer, &origin, credentials, &form).await,
        Some("client_credentials") => log_in_client(&users, issuer, &origin, credentials, &form).await,
        Some(_) => Err(OAuthError::UnsupportedGrantType),
        None => Err(OAuthError::InvalidRequest("grant_type is missing")),
    }
}

async fn refresh(
    users: &Users,
    issuer: &Issuer,
    origin: &Origin,
    credentials: Option<Credentials>,
    form: &Form,
) -> Result<TokenResponse, OAuthError> {
    let record = |subject, outcome| issuer.audit.login("refresh", subject, Some(PASSWORD_CLIENT), origin, outcome);
    let token = form.get("refresh_token").ok_or(OAuthError::InvalidRequest("refresh_token is missing"))?;
    // Refresh tokens come from a login with a password, whose client has no secret.
    if let Some(credentials) = credentials
        && (credentials.id != PASSWORD_CLIENT || credentials.secret.is_some())
    {
        record(None, Outcome::InvalidCredentials);
        return Err(OAuthError::InvalidClient);
    }
    let Some(RefreshToken { session, counter }) = issuer.read_refresh_token(token)? else {
        record(None, Outcome::InvalidCredentials);
        return Err(OAuthError::InvalidGrant);
    };
    if let Some(requested) = form.get("scope") {
        // A scope that is refused must not cost the client its token.
        let roles = users.database.run(async |connection| session::roles(connection, session).await).await;
        if roles.map_err(Error::from)?.is_some_and(|roles| !Grant::allows(&roles, requested)) {
            return Err(OAuthError::InvalidScope);
        }
    }
    let work = async |connection: &mut sqlx::PgConnection| session::refresh(connection, session, counter, origin).await;
    let Some(refreshed) = users.database.change(work).await.map_err(Error::from_write)? else {
        record(None, Outcome::InvalidCredentials);
        return Err(OAuthError::InvalidGrant);
    };
    if refreshed.is_ended {
        record(Some(refreshed.user_id), Outcome::Reused);
        return Err(OAuthError::InvalidGrant);
    }
    let grant_session =
        GrantSession { refresh: RefreshToken { session, counter: refreshed.counter }, since: refreshed.created_at };
    let grant = Grant::of_user(refreshed.user_id, &refreshed.roles, grant_session);
    let grant = narrow(grant, form)?;
    let tokens = issuer.issue(&grant)?;
    record(Some(refreshed.user_id), Outcome::Success);
    Ok(tokens)
}

async fn log_in_client(
    users: &Users,
    issuer: &Issuer,
    origin: &Origin,
    credentials: Option<Credentials>,
    form: &Form,
) -> Result<TokenResponse, OAuthError> {
    let credentials = credentials.ok_or(OAuthError::InvalidClient)?;
    // Anything can be sent as an id, so only one that could be real is logged.
    let id: Option<Uuid> = credentials.id.parse().ok();
    let shown = id.map(|id| id.to_string());
    let record = |outcome| issuer.audit.login("client_credentials", id, shown.as_deref(), origin, outcome);
    let client = credentials.verify(users).await.inspect_err(|error| {
        if matches!(error, OAuthError::InvalidClient) {
            record(Outcome::InvalidCredentials);
        }
    })?;
    let (name, scopes) = (client.id.to_string(), client.scopes.iter().map(String::as_str).collect());
    let grant = Grant { subject: client.id, client: &name, scopes, roles: Vec::new(), session: None };
    let tokens = issuer.issue(&narrow(grant, form)?)?;
    record(Outcome::Success);
    Ok(tokens)
}

fn narrow<'a>(grant: Grant<'a>, form: &Form) -> Result<Grant<'a>, OAuthError> {
    match form.get("scope") {
        None => Ok(grant),
        Some(requested) => grant.narrow(requested).ok_or(OAuthError::InvalidScope),
    }
}

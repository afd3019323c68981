//! `POST /auth/login`.

use axum::extract::State;
use chassis::{Fields, FromFields, Json};
use utoipa::ToSchema;

use crate::{
    audit::Outcome,
    client_address::Origin,
    error::Error,
    issuer::{Attempt, Grant, GrantSession, Issuer, PASSWORD_CLIENT, RefreshToken, TokenResponse, new_id},
    model::{Email, UserId},
    password::{Password, Place, Verdict},
    state::Users,
    store::{credential, session},
};

/// What a user logs in with.
#[derive(ToSchema)]
pub(in crate::routes) struct Login {
    email: Email,
    password: Password,
}

impl FromFields for Login {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let email = fields.required("email");
        let password = fields.required("password");
        Some(Self { email: email?, password: password? })
    }
}

/// Log in with a password
///
/// Starts a session. Its refresh token is exchanged for the next one at `/oauth2/token`.
#[utoipa::path(
    post,
    path = "/auth/login",
    operation_id = "login",
    tag = "auth",
    security(()),
    request_body = Login,
    responses(
        (status = OK, description = "The tokens of a new session.", body = TokenResponse),
        (status = UNAUTHORIZED, description = "The email or the password is wrong."),
        (status = TOO_MANY_REQUESTS, description = "Too many attempts failed; try again after `Retry-After` seconds."),
        (status = NOT_FOUND, description = "This service issues no tokens."),
    ),
)]
pub(in crate::routes) async fn login(
    State(users): State<Users>,
    origin: Origin,
    Json(login): Json<Login>,
) -> Result<TokenResponse, Error> {
    let issuer = users.issuer()?;
    let record = |subject, outcome| issuer.audit.login("login", subject, Some(PASSWORD_CLIENT), &origin, outcome);
    let result = check(&users, issuer, &origin, login).await;
    match &result {
        Ok((subject, _)) => record(Some(*subject), Outcome::Success),
        Err(Error::InvalidCredentials) => record(None, Outcome::InvalidCredentials),
        Err(Error::TooManyAttempts(_)) => record(None, Outcome::Limited),
        Err(Error::Busy(_)) => record(None, Outcome::Busy),
        Err(_) => {}
    }
    result.map(|(_, tokens)| tokens)
}

async fn check(
    users: &Users,
    issuer: &Issuer,
    origin: &Origin,
    login: Login,
) -> Result<(uuid::Uuid, TokenResponse), Error> {
    // First what costs nothing: a login that cannot succeed must not occupy a thread.
    issuer.keys()?;
    let place = issuer.hasher.enter()?;
    let attempt = Attempt::reserve(&users.database, &login.email, origin).await?;
    let found = users.database.run(async |connection| credential::by_email(connection, &login.email).await).await?;
    let phc = found.as_ref().and_then(|found| found.phc.as_deref());
    let verdict = match verify(issuer, place, login.password, phc).await {
        Err(busy) => {
            attempt.release(&users.database).await?;
            return Err(busy);
        }
        Ok(verdict) => verdict,
    };
    let (Verdict::Right { rehashed }, Some(found)) = (verdict, found) else { return Err(Error::InvalidCredentials) };
    let Some(changed_at) = found.changed_at else { return Err(Error::InvalidCredentials) };
    let user_id = UserId(found.user_id);
    if let (Some(old), Some(new)) = (&found.phc, rehashed) {
        let work = async |connection: &mut sqlx::PgConnection| credential::rehash(connection, user_id, old, &new).await;
        users.database.change(work).await.map_err(Error::from_write)?;
    }
    let id = new_id();
    let work = async |connection: &mut sqlx::PgConnection| {
        session::start(connection, id, user_id, changed_at, origin, &attempt.0).await
    };
    if !users.database.change(work).await.map_err(Error::from_write)? {
        // The user was deleted, or the password changed.
        return Err(Error::InvalidCredentials);
    }
    let session = GrantSession { refresh: RefreshToken { session: id, counter: 0 }, since: chrono::Utc::now() };
    let grant = Grant::of_user(found.user_id, &found.roles, session);
    Ok((found.user_id, issuer.issue(&grant)?))
}

async fn verify(issuer: &Issuer, place: Place, password: Password, phc: Option<&str>) -> Result<Verdict, Error> {
    Ok(issuer.hasher.verify(place, password, phc).await?)
}

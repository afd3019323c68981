//! `POST /auth/login`.

use axum::extract::State;
use chassis::{Fields, FromFields, Json};
use sqlx::PgConnection;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    audit::Outcome,
    client_address::Origin,
    error::Error,
    issuer::{Attempt, Grant, GrantSession, PASSWORD_CLIENT, RefreshToken, TokenResponse, new_id},
    model::{Email, UserId},
    password::{Busy, Password, Verdict},
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
    // First what costs nothing: a login that cannot succeed must not occupy a thread.
    issuer.keys()?;
    let reserved = Attempt::reserve(&users, &login.email, &origin).await;
    let (attempt, place) = reserved.inspect_err(|error| match error {
        Error::TooManyAttempts(_) => record(None, Outcome::Limited),
        Error::Busy(_) => record(None, Outcome::Busy),
        _ => {}
    })?;
    let found = users.database.run(async |connection| credential::by_email(connection, &login.email).await).await?;
    let (subject, phc) =
        (found.as_ref().map(|found| found.user_id), found.as_ref().and_then(|found| found.phc.as_deref()));
    let Ok(verdict) = issuer.hasher.verify(place, login.password, phc).await else {
        record(subject, Outcome::Busy);
        attempt.release(&users).await?;
        return Err(Busy.into());
    };
    let started = match (verdict, found) {
        (Verdict::Right { rehashed }, Some(found)) => start(&users, &attempt, &origin, found, rehashed).await?,
        _ => None,
    };
    let Some(grant) = started else {
        record(subject, Outcome::InvalidCredentials);
        return Err(Error::InvalidCredentials);
    };
    let tokens = issuer.issue(&Grant::of_user(grant.user_id, &grant.roles, grant.session))?;
    record(subject, Outcome::Success);
    Ok(tokens)
}

/// What a login was granted.
struct Started {
    user_id: Uuid,
    roles: Vec<String>,
    session: GrantSession,
}

/// Starts a session after the right password. Returns `None` if the user was deleted, the password changed or a role
/// taken away meanwhile.
async fn start(
    users: &Users,
    attempt: &Attempt,
    origin: &Origin,
    found: credential::Login,
    rehashed: Option<String>,
) -> Result<Option<Started>, Error> {
    let credential::Login { user_id, phc: Some(old), changed_at: Some(changed_at), roles } = found else {
        return Ok(None);
    };
    let user = UserId(user_id);
    if let Some(new) = rehashed {
        let work = async |connection: &mut PgConnection| credential::rehash(connection, user, &old, &new).await;
        users.database.change(work).await.map_err(Error::from_write)?;
    }
    let id = new_id();
    let work = async |connection: &mut PgConnection| {
        session::start(connection, id, user, changed_at, origin, &attempt.keys).await
    };
    let started = users.database.change(work).await.map_err(Error::from_write)?;
    if started.is_some() {
        attempt.forget(users.issuer()?);
    }
    Ok(started.map(|since| {
        let session = GrantSession { refresh: RefreshToken { session: id, counter: 0 }, since };
        Started { user_id, roles, session }
    }))
}

//! `PUT /auth/password`.

use axum::extract::State;
use chassis::{Fields, FromFields, Json};
use http::StatusCode;
use utoipa::ToSchema;

use crate::{
    access::{Myself, actor},
    audit::Outcome,
    client_address::Origin,
    error::Error,
    issuer::{Attempt, PASSWORD_CLIENT},
    model::Email,
    password::{NewPassword, Password, Verdict},
    state::Users,
    store::credential,
};

/// A change of the caller's password.
#[derive(ToSchema)]
pub(in crate::routes) struct PasswordChange {
    current: Password,
    new: NewPassword,
}

impl FromFields for PasswordChange {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let current = fields.required("current");
        let new = fields.required("new");
        Some(Self { current: current?, new: new? })
    }
}

/// Change the password of the caller
///
/// All other sessions of the user end.
#[utoipa::path(
    put,
    path = "/auth/password",
    operation_id = "changePassword",
    tag = "auth",
    security(("bearer" = [])),
    request_body = PasswordChange,
    responses(
        (status = NO_CONTENT, description = "The password was changed."),
        (status = UNAUTHORIZED, description = "The request has no valid token, or the current password is wrong."),
        (status = TOO_MANY_REQUESTS, description = "Too many attempts failed; try again after `Retry-After` seconds."),
    ),
)]
pub(in crate::routes) async fn change(
    State(users): State<Users>,
    me: Myself,
    origin: Origin,
    Json(change): Json<PasswordChange>,
) -> Result<StatusCode, Error> {
    let issuer = users.issuer()?;
    let found = users.database.run(async |connection| credential::get(connection, me.id).await).await?;
    let (phc, email) = found.ok_or(Error::InvalidCredentials)?;
    if change.new.is_email(&email) {
        return Err(Error::PasswordIsEmail);
    }
    let record = |outcome| {
        issuer.audit.login("password_check", Some(me.id.0), Some(PASSWORD_CLIENT), &origin, outcome);
    };
    // A stolen access token must not help to guess the password: the attempts count as those of a login.
    let email = Email::try_from(email).map_err(|_| Error::InvalidCredentials)?;
    let reserved = Attempt::reserve(&users, &email, &origin).await;
    let (attempt, place) = reserved.inspect_err(|error| match error {
        Error::TooManyAttempts(_) => record(Outcome::Limited),
        Error::Busy(_) => record(Outcome::Busy),
        _ => {}
    })?;
    match issuer.hasher.verify(place, change.current, Some(&phc)).await {
        Ok(Verdict::Right { .. }) => attempt.release(&users).await?,
        Ok(Verdict::Wrong) => {
            record(Outcome::InvalidCredentials);
            return Err(Error::InvalidCredentials);
        }
        Err(busy) => {
            record(Outcome::Busy);
            attempt.release(&users).await?;
            return Err(busy.into());
        }
    }
    let new = issuer.hasher.hash(issuer.hasher.enter()?, change.new.into_password()).await?;
    // If the password was set in the meantime, the current one was not the current one.
    let work = async |connection: &mut sqlx::PgConnection| {
        credential::set(connection, me.id, &new, Some(&phc), Some(me.session)).await
    };
    if users.database.change(work).await.map_err(Error::from_write)?.is_none() {
        record(Outcome::InvalidCredentials);
        return Err(Error::InvalidCredentials);
    }
    issuer.audit.change("password_changed", &actor(&me.identity), me.id, &origin);
    Ok(StatusCode::NO_CONTENT)
}

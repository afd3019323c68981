//! `GET`, `PATCH` and `DELETE /users/{id}`.

use axum::extract::State;
use chassis::{
    Fields, FromFields, Identity, Json, Preconditions, Tagged,
    idempotency::{Claim, IdempotencyKey},
};
use http::{Method, StatusCode};
use sqlx::PgConnection;
use utoipa::ToSchema;

use crate::{
    access::{ReadableUser, WRITE, WritableUser},
    error::Error,
    issuer::count_email,
    model::{Email, Name, User, UserId},
    state::Users,
    store,
};

/// A JSON merge patch (RFC 7396) for a user.
#[derive(ToSchema)]
pub(super) struct UserPatch {
    #[schema(value_type = Name, required = false)]
    name: Option<Name>,
    #[schema(value_type = Email, required = false)]
    email: Option<Email>,
}

impl FromFields for UserPatch {
    const MEDIA_TYPES: &'static [&'static str] = &["application/merge-patch+json", "application/json"];

    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let name = fields.optional("name");
        let email = fields.optional("email");
        Some(Self { name: name?, email: email? })
    }
}

/// Get a user
#[utoipa::path(
    get,
    path = "/users/{id}",
    operation_id = "getUser",
    tag = "users",
    security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The user's id.")),
    responses(
        (status = OK, description = "The user.", body = User, headers(("etag" = String, description = "The version of the user."))),
        (status = NOT_FOUND, description = "The user does not exist."),
    ),
)]
pub(super) async fn get(State(users): State<Users>, ReadableUser(id): ReadableUser) -> Result<Tagged<User>, Error> {
    let user = users.database.run(async |connection| store::get(connection, id).await).await?;
    let user = user.ok_or(Error::NotFound)?;
    Ok(Tagged { version: user.version, body: user })
}

/// Update a user
#[utoipa::path(
    patch,
    path = "/users/{id}",
    operation_id = "patchUser",
    tag = "users",
    security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The user's id."), Preconditions, IdempotencyKey),
    request_body(
        description = "The attributes to change; omitted ones keep their values.",
        content((UserPatch = "application/merge-patch+json"), (UserPatch = "application/json")),
    ),
    responses(
        (status = OK, description = "The updated user.", body = User, headers(
            ("etag" = String, description = "The new version of the user."),
        )),
        (status = NOT_FOUND, description = "The user does not exist."),
        (status = CONFLICT, description = "Another user has this email."),
        (status = TOO_MANY_REQUESTS, description = "The caller has tried many emails; try again after `Retry-After` seconds."),
    ),
)]
pub(super) async fn patch(
    State(users): State<Users>,
    WritableUser(id): WritableUser,
    identity: Identity,
    preconditions: Preconditions,
    key: Option<IdempotencyKey>,
    Json(patch): Json<UserPatch>,
) -> Result<Tagged<User>, Error> {
    if let Some(email) = &patch.email
        && identity.require_scope(WRITE).is_err()
    {
        let user = users.database.run(async |connection| store::get(connection, id).await).await?;
        if !user.ok_or(Error::NotFound)?.email.eq_ignore_ascii_case(email.as_str()) {
            count_email(&users.database, id).await?;
        }
    }
    let claim = key.map(|key| Claim::new(&key, &Method::PATCH, &format!("/users/{id}"), content(&patch)));
    let UserPatch { name, email } = &patch;
    let update = async |connection: &mut PgConnection| {
        let updated = store::update(connection, id, name.as_ref(), email.as_ref(), &preconditions).await?;
        Ok(updated.map(|user| Tagged { version: user.version, body: user }).ok_or(Error::NotFound))
    };
    let updated = users.database.once(claim.as_ref(), update).await.map_err(|failure| {
        if store::is_email_taken(failure.error()) { Error::EmailTaken } else { Error::from_write(failure) }
    })?;
    match updated {
        Err(Error::NotFound) => Err(not_found_or_changed(&users, id).await),
        updated => updated,
    }
}

/// The content of the request: the given attributes.
fn content(UserPatch { name, email }: &UserPatch) -> Vec<&str> {
    let name = name.iter().flat_map(|name| ["name", name.as_str()]);
    name.chain(email.iter().flat_map(|email| ["email", email.as_str()])).collect()
}

/// Delete a user
#[utoipa::path(
    delete,
    path = "/users/{id}",
    operation_id = "deleteUser",
    tag = "users",
    security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The user's id."), Preconditions),
    responses(
        (status = NO_CONTENT, description = "The user was deleted."),
        (status = NOT_FOUND, description = "The user does not exist."),
    ),
)]
pub(super) async fn delete(
    State(users): State<Users>,
    WritableUser(id): WritableUser,
    preconditions: Preconditions,
) -> Result<StatusCode, Error> {
    let deleted = users.database.change(async |connection| store::delete(connection, id, &preconditions).await).await;
    if deleted.map_err(Error::from_write)? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(not_found_or_changed(&users, id).await)
    }
}

/// The reason a conditional change did not match.
async fn not_found_or_changed(users: &Users, id: UserId) -> Error {
    match users.database.run(async |connection| store::get(connection, id).await).await {
        Ok(Some(_)) => Error::PreconditionFailed,
        Ok(None) => Error::NotFound,
        Err(failure) => failure.into(),
    }
}

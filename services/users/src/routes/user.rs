//! `GET`, `PATCH` and `DELETE /users/{id}`.

use axum::extract::State;
use chassis::{Fields, FromFields, IfMatch, Json, Path, Tagged};
use http::StatusCode;
use utoipa::ToSchema;

use crate::{
    Users,
    error::Error,
    model::{Email, Name, User},
    store,
};

/// A JSON merge patch (RFC 7396) of a user.
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

/// Read a user
#[utoipa::path(
    get,
    path = "/users/{id}",
    operation_id = "getUser",
    tag = "users",
    params(("id" = Uuid, Path, description = "The user's id.")),
    responses(
        (status = OK, description = "The user.", body = User, headers(("etag" = String, description = "Its version."))),
        (status = NOT_FOUND, description = "There is no such user."),
    ),
)]
pub(super) async fn get(State(users): State<Users>, Path(id): Path<String>) -> Result<Tagged<User>, Error> {
    let user = store::get(&mut *users.database.acquire().await?, id.parse()?).await?;
    Ok(Tagged { version: user.version, body: user })
}

/// Change a user
#[utoipa::path(
    patch,
    path = "/users/{id}",
    operation_id = "patchUser",
    tag = "users",
    params(
        ("id" = Uuid, Path, description = "The user's id."),
        ("if-match" = Option<String>, Header, description = "Only if the user's `ETag` is one of these."),
    ),
    request_body(
        description = "What is to change; what is left out stays.",
        content((UserPatch = "application/merge-patch+json"), (UserPatch = "application/json")),
    ),
    responses(
        (status = OK, description = "The changed user.", body = User, headers(
            ("etag" = String, description = "Its new version."),
        )),
        (status = NOT_FOUND, description = "There is no such user."),
        (status = CONFLICT, description = "Another user has this email."),
        (status = PRECONDITION_FAILED, description = "The user has another version."),
    ),
)]
pub(super) async fn patch(
    State(users): State<Users>,
    Path(id): Path<String>,
    if_match: IfMatch,
    Json(patch): Json<UserPatch>,
) -> Result<Tagged<User>, Error> {
    let id = id.parse()?;
    let mut connection = users.database.acquire().await?;
    let user = store::update(&mut connection, id, patch.name.as_ref(), patch.email.as_ref(), &if_match).await?;
    Ok(Tagged { version: user.version, body: user })
}

/// Delete a user
#[utoipa::path(
    delete,
    path = "/users/{id}",
    operation_id = "deleteUser",
    tag = "users",
    params(
        ("id" = Uuid, Path, description = "The user's id."),
        ("if-match" = Option<String>, Header, description = "Only if the user's `ETag` is one of these."),
    ),
    responses(
        (status = NO_CONTENT, description = "The user is gone."),
        (status = NOT_FOUND, description = "There is no such user."),
        (status = PRECONDITION_FAILED, description = "The user has another version."),
    ),
)]
pub(super) async fn delete(
    State(users): State<Users>,
    Path(id): Path<String>,
    if_match: IfMatch,
) -> Result<StatusCode, Error> {
    store::delete(&mut *users.database.acquire().await?, id.parse()?, &if_match).await?;
    Ok(StatusCode::NO_CONTENT)
}

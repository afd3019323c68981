//! `POST /users`.

use axum::{extract::State, response::IntoResponse};
use chassis::{Database, Fields, FromFields, Json, Tagged};
use http::{StatusCode, header};
use utoipa::ToSchema;

use crate::{
    error::Error,
    model::{Email, Name, User},
    store,
};

/// A user to be.
#[derive(ToSchema)]
pub(super) struct NewUser {
    name: Name,
    email: Email,
}

impl FromFields for NewUser {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let name = fields.required("name");
        let email = fields.required("email");
        Some(Self { name: name?, email: email? })
    }
}

/// Create a user
#[utoipa::path(
    post,
    path = "/users",
    operation_id = "createUser",
    tag = "users",
    request_body = NewUser,
    responses(
        (status = CREATED, description = "The new user.", body = User, headers(
            ("location" = String, description = "Its path."),
            ("etag" = String, description = "Its version."),
        )),
        (status = CONFLICT, description = "Another user has this email."),
    ),
)]
pub(super) async fn create(
    State(database): State<Database>,
    Json(new): Json<NewUser>,
) -> Result<impl IntoResponse, Error> {
    let user = store::insert(&mut *database.acquire().await?, &new.name, &new.email).await?;
    let location = [(header::LOCATION, format!("/users/{}", user.id))];
    Ok((StatusCode::CREATED, location, Tagged { version: user.version, body: user }))
}

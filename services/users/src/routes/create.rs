//! `POST /users`.

use axum::{extract::State, response::IntoResponse};
use chassis::{Fields, FromFields, Json, Tagged};
use http::{StatusCode, header};

use crate::{Users, creator::NewUser, error::Error, model::User};

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
pub(super) async fn create(State(users): State<Users>, Json(new): Json<NewUser>) -> Result<impl IntoResponse, Error> {
    let user = users.creations.ask(new).await??;
    let location = [(header::LOCATION, format!("/users/{}", user.id))];
    Ok((StatusCode::CREATED, location, Tagged { version: user.version, body: user }))
}

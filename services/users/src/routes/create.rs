//! `POST /users`.

use axum::{extract::State, response::IntoResponse};
use chassis::{Fields, FromFields, Json, Tagged};
use http::{StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{Users, creator::NewUser, error::Error, model::User, wishlist::Wishlist};

impl FromFields for NewUser {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let name = fields.required("name");
        let email = fields.required("email");
        let wishlist = fields.optional("wishlist");
        Some(Self { name: name?, email: email?, wishlist: wishlist? })
    }
}

/// A new user, with the wishlist it was given.
#[derive(Serialize, ToSchema)]
pub(super) struct CreatedUser {
    #[serde(flatten)]
    user: User,
    /// Only where one was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Wishlist, required = false)]
    wishlist: Option<Wishlist>,
}

/// Create a user
#[utoipa::path(
    post,
    path = "/users",
    operation_id = "createUser",
    tag = "users",
    request_body = NewUser,
    responses(
        (status = CREATED, description = "The new user.", body = CreatedUser, headers(
            ("location" = String, description = "Its path."),
            ("etag" = String, description = "Its version."),
        )),
        (status = CONFLICT, description = "Another user has this email."),
    ),
)]
pub(super) async fn create(State(users): State<Users>, Json(new): Json<NewUser>) -> Result<impl IntoResponse, Error> {
    let (user, wishes) = users.creations.ask(new).await??;
    let wishlist = match wishes {
        Some(wishes) => Some(users.show(wishes).await),
        None => None,
    };
    let location = [(header::LOCATION, format!("/users/{}", user.id))];
    Ok((StatusCode::CREATED, location, Tagged { version: user.version, body: CreatedUser { user, wishlist } }))
}

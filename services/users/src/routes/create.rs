//! `POST /users`.

use axum::{extract::State, response::IntoResponse};
use chassis::{Fields, FromFields, Json, Tagged};
use http::{StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    error::Error,
    model::{NewUser, User, Wishlist},
    state::Users,
};

impl FromFields for NewUser {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let name = fields.required("name");
        let email = fields.required("email");
        let wishlist = fields.optional("wishlist");
        Some(Self { name: name?, email: email?, wishlist: wishlist? })
    }
}

/// A new user.
#[derive(Serialize, ToSchema)]
pub(super) struct CreatedUser {
    #[serde(flatten)]
    user: User,
    /// Present if the request had a wishlist.
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
            ("location" = String, description = "The path of the user."),
            ("etag" = String, description = "The version of the user."),
        )),
        (status = CONFLICT, description = "Another user has this email."),
    ),
)]
pub(super) async fn create(State(users): State<Users>, Json(new): Json<NewUser>) -> Result<impl IntoResponse, Error> {
    let (user, wishes) = users.writer.submit(new).await??;
    let wishlist = match wishes {
        Some(wishes) => Some(users.with_stocks(wishes).await),
        None => None,
    };
    let location = [(header::LOCATION, format!("/users/{}", user.id))];
    Ok((StatusCode::CREATED, location, Tagged { version: user.version, body: CreatedUser { user, wishlist } }))
}

//! `POST /users`.

use axum::{extract::State, response::IntoResponse};
use chassis::{
    Fields, FromFields, Json,
    batch::BatchError,
    idempotency::{Claim, IdempotencyKey},
};
use http::{Method, StatusCode, header};
use tokio::sync::oneshot;

use crate::{
    access::Creator,
    error::Error,
    model::{CreatedUser, NewUser, ProductId},
    state::Users,
    user_writer::Creation,
};

impl FromFields for NewUser {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let name = fields.required("name");
        let email = fields.required("email");
        let wishlist = fields.optional("wishlist");
        Some(Self { name: name?, email: email?, wishlist: wishlist? })
    }
}

/// Create a user
#[utoipa::path(
    post,
    path = "/users",
    operation_id = "createUser",
    tag = "users",
    security(("bearer" = ["users:write"])),
    params(IdempotencyKey),
    request_body = NewUser,
    responses(
        (status = CREATED, description = "The new user.", body = CreatedUser, headers(
            ("location" = String, description = "The path of the user."),
            ("etag" = String, description = "The version of the user."),
        )),
        (status = CONFLICT, description = "Another user has this email."),
    ),
)]
pub(super) async fn create(
    State(users): State<Users>,
    _: Creator,
    key: Option<IdempotencyKey>,
    Json(new): Json<NewUser>,
) -> Result<impl IntoResponse, Error> {
    let claim = key.map(|key| Claim::new(&key, &Method::POST, "/users", content(&new)));
    // Fetched before the change, so that it is part of the stored response.
    let stocks = match &new.wishlist {
        Some(wishes) => users.stocks(wishes).await,
        None => None,
    };
    let (reply, created) = oneshot::channel();
    users.writer.submit(Creation { new, stocks, claim, reply }).await?;
    let created = created.await.map_err(|_| BatchError::Lost)??;
    let location = [(header::LOCATION, format!("/users/{}", created.body.user.id))];
    Ok((StatusCode::CREATED, location, created))
}

/// The content of the request: an empty wishlist differs from none.
fn content(NewUser { name, email, wishlist }: &NewUser) -> Vec<&str> {
    let mut content = vec![name.as_str(), email.as_str()];
    if let Some(wishes) = wishlist {
        content.push("wishlist");
        content.extend(wishes.product_ids().iter().map(ProductId::as_str));
    }
    content
}

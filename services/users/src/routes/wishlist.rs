//! `GET /users/{id}/wishlist`, `PUT` and `DELETE /users/{id}/wishlist/{product_id}`.

use axum::extract::State;
use chassis::{FieldError, Path, Problem};
use http::StatusCode;

use crate::{
    access::{ReadableUser, WritableUser},
    error::Error,
    model::{ProductId, Wishlist},
    state::Users,
    store,
};

/// Parses the id of the product in the path.
fn parse((_, product_id): (String, String)) -> Result<ProductId, Problem> {
    let invalid = |detail: &str| Problem::invalid(vec![FieldError::parameter("product_id", detail)]);
    ProductId::try_from(product_id).map_err(invalid)
}

/// Get a wishlist
///
/// The wishlist includes the stock of its products. If inventory does not respond within 300 ms, the stock is null and
/// `degraded` is true.
#[utoipa::path(
    get,
    path = "/users/{id}/wishlist",
    operation_id = "getWishlist",
    tag = "wishlist",
    security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The user's id.")),
    responses(
        (status = OK, description = "The wishlist.", body = Wishlist),
        (status = NOT_FOUND, description = "The user does not exist."),
    ),
)]
pub(super) async fn get(
    State(users): State<Users>,
    ReadableUser(id): ReadableUser,
) -> Result<axum::Json<Wishlist>, Error> {
    let wishes = users.database.run(async |connection| store::wishlist::get(connection, id).await).await?;
    let wishes = wishes.ok_or(Error::NotFound)?;
    Ok(axum::Json(users.with_stocks(wishes).await))
}

/// Add a product to a wishlist (no effect if it is already there)
#[utoipa::path(
    put,
    path = "/users/{id}/wishlist/{product_id}",
    operation_id = "addToWishlist",
    tag = "wishlist",
    security(("bearer" = [])),
    params(
        ("id" = Uuid, Path, description = "The user's id."),
        ("product_id" = inline(ProductId), Path, description = "The product's id."),
    ),
    responses(
        (status = NO_CONTENT, description = "The product is now on the wishlist."),
        (status = NOT_FOUND, description = "The user does not exist."),
        (status = CONFLICT, description = "The wishlist is full: it has 200 other products."),
    ),
)]
pub(super) async fn put(
    State(users): State<Users>,
    WritableUser(id): WritableUser,
    Path(path): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let product_id = parse(path)?;
    let added = users.database.change(async |connection| store::wishlist::add(connection, id, &product_id).await).await;
    match added.map_err(Error::from_write)? {
        Some(true) => Ok(StatusCode::NO_CONTENT),
        Some(false) => Err(Error::WishlistFull.into()),
        None => Err(Error::NotFound.into()),
    }
}

/// Remove a product from a wishlist (no effect if it is not there)
#[utoipa::path(
    delete,
    path = "/users/{id}/wishlist/{product_id}",
    operation_id = "removeFromWishlist",
    tag = "wishlist",
    security(("bearer" = [])),
    params(
        ("id" = Uuid, Path, description = "The user's id."),
        ("product_id" = inline(ProductId), Path, description = "The product's id."),
    ),
    responses(
        (status = NO_CONTENT, description = "The product is no longer on the wishlist."),
        (status = NOT_FOUND, description = "The user does not exist."),
    ),
)]
pub(super) async fn delete(
    State(users): State<Users>,
    WritableUser(id): WritableUser,
    Path(path): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let product_id = parse(path)?;
    let removed =
        users.database.change(async |connection| store::wishlist::remove(connection, id, &product_id).await).await;
    if removed.map_err(Error::from_write)? { Ok(StatusCode::NO_CONTENT) } else { Err(Error::NotFound.into()) }
}

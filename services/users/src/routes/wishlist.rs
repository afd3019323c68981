//! `GET /users/{id}/wishlist`, `PUT` and `DELETE /users/{id}/wishlist/{product_id}`.

use axum::extract::State;
use chassis::{FieldError, Path, Problem};
use contracts::ProductId;
use http::StatusCode;

use crate::{Users, error::Error, model::UserId, store, wishlist::Wishlist};

/// Where a product is on a user's wishlist.
fn place((id, product_id): (String, String)) -> Result<(UserId, ProductId), Problem> {
    let id = id.parse()?;
    let invalid = |fault: &str| Problem::invalid(vec![FieldError::parameter("product_id", fault)]);
    Ok((id, ProductId::try_from(product_id).map_err(invalid)?))
}

/// Read a user's wishlist, with the stock of its products
///
/// Where inventory does not answer within 300 ms the stock is null, and `degraded` is true.
#[utoipa::path(
    get,
    path = "/users/{id}/wishlist",
    operation_id = "getWishlist",
    tag = "wishlist",
    params(("id" = Uuid, Path, description = "The user's id.")),
    responses(
        (status = OK, description = "The wishlist.", body = Wishlist),
        (status = NOT_FOUND, description = "There is no such user."),
    ),
)]
pub(super) async fn get(State(users): State<Users>, Path(id): Path<String>) -> Result<axum::Json<Wishlist>, Error> {
    let id = id.parse()?;
    let wishes = users.database.run(async |connection| store::wishlist::get(connection, id).await).await?;
    let wishes = wishes.ok_or(Error::NotFound)?;
    Ok(axum::Json(users.show(wishes).await))
}

/// Put a product on a user's wishlist; it may be there already
#[utoipa::path(
    put,
    path = "/users/{id}/wishlist/{product_id}",
    operation_id = "addToWishlist",
    tag = "wishlist",
    params(
        ("id" = Uuid, Path, description = "The user's id."),
        ("product_id" = inline(ProductId), Path, description = "The product."),
    ),
    responses(
        (status = NO_CONTENT, description = "The product is on the wishlist."),
        (status = NOT_FOUND, description = "There is no such user."),
        (status = CONFLICT, description = "The wishlist has 200 other products."),
    ),
)]
pub(super) async fn put(State(users): State<Users>, Path(path): Path<(String, String)>) -> Result<StatusCode, Problem> {
    let (id, product_id) = place(path)?;
    let added = users.database.run(async |connection| store::wishlist::add(connection, id, &product_id).await).await;
    match added.map_err(Error::of_write)? {
        Some(true) => Ok(StatusCode::NO_CONTENT),
        Some(false) => Err(Error::WishlistFull.into()),
        None => Err(Error::NotFound.into()),
    }
}

/// Take a product off a user's wishlist; it need not be there
#[utoipa::path(
    delete,
    path = "/users/{id}/wishlist/{product_id}",
    operation_id = "removeFromWishlist",
    tag = "wishlist",
    params(
        ("id" = Uuid, Path, description = "The user's id."),
        ("product_id" = inline(ProductId), Path, description = "The product."),
    ),
    responses(
        (status = NO_CONTENT, description = "The product is not on the wishlist."),
        (status = NOT_FOUND, description = "There is no such user."),
    ),
)]
pub(super) async fn delete(
    State(users): State<Users>,
    Path(path): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let (id, product_id) = place(path)?;
    let removed =
        users.database.run(async |connection| store::wishlist::remove(connection, id, &product_id).await).await;
    if removed.map_err(Error::of_write)? { Ok(StatusCode::NO_CONTENT) } else { Err(Error::NotFound.into()) }
}

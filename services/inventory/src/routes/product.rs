//! `GET`, `POST` and `PATCH /inventory/{product_id}`.

use axum::{extract::State, response::IntoResponse};
use chassis::{Fields, FromFields, Json, Path, Tagged};
use http::StatusCode;
use utoipa::ToSchema;

use super::idempotency_key::Key;
use crate::{
    engine::Inventory,
    error::Error,
    model::{Action, Change, Delta, ProductId, Quantity, Reason, Stock},
};

/// What is on hand from now on.
#[derive(ToSchema)]
pub(super) struct SetStock {
    stock: Quantity,
}

impl FromFields for SetStock {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        Some(Self { stock: fields.required("stock")? })
    }
}

/// A change of what is on hand.
#[derive(ToSchema)]
pub(super) struct AdjustStock {
    delta: Delta,
    /// Why, for the ledger.
    #[schema(value_type = Reason, required = false)]
    reason: Option<Reason>,
}

impl FromFields for AdjustStock {
    const MEDIA_TYPES: &'static [&'static str] = &["application/json", "application/merge-patch+json"];

    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let delta = fields.required("delta");
        let reason = fields.optional("reason");
        Some(Self { delta: delta?, reason: reason? })
    }
}

/// Read the stock of a product; an unknown one has none
#[utoipa::path(
    get,
    path = "/inventory/{product_id}",
    operation_id = "getStock",
    tag = "inventory",
    params(("product_id" = inline(ProductId), Path, description = "The product.")),
    responses((status = OK, description = "Its stock.", body = Stock, headers(
        ("etag" = String, description = "The number of its last movement."),
    ))),
)]
pub(super) async fn get(
    State(inventory): State<Inventory>,
    Path(product_id): Path<ProductId>,
) -> Result<Tagged<Stock>, Error> {
    inventory.read(product_id).await.map(tagged)
}

/// Set what is on hand of a product
#[utoipa::path(
    post,
    path = "/inventory/{product_id}",
    operation_id = "setStock",
    tag = "inventory",
    params(("product_id" = inline(ProductId), Path, description = "The product.")),
    request_body = SetStock,
    responses(
        (status = CREATED, description = "Its stock.", body = Stock, headers(
            ("etag" = String, description = "The number of its last movement."),
        )),
        (status = CONFLICT, description = "More is reserved."),
    ),
)]
pub(super) async fn set(
    State(inventory): State<Inventory>,
    Path(product_id): Path<ProductId>,
    Json(set): Json<SetStock>,
) -> Result<impl IntoResponse, Error> {
    let stock = inventory.change(Change { product_id, action: Action::Set(set.stock) }, None).await?;
    Ok((StatusCode::CREATED, tagged(stock)))
}

/// Add to what is on hand of a product, or take from it
#[utoipa::path(
    patch,
    path = "/inventory/{product_id}",
    operation_id = "adjustStock",
    tag = "inventory",
    params(("product_id" = inline(ProductId), Path, description = "The product."), Key),
    request_body(content((AdjustStock = "application/json"), (AdjustStock = "application/merge-patch+json"))),
    responses(
        (status = OK, description = "Its stock.", body = Stock, headers(
            ("etag" = String, description = "The number of its last movement."),
        )),
        (status = CONFLICT, description = "Less would be left than is reserved."),
    ),
)]
pub(super) async fn adjust(
    State(inventory): State<Inventory>,
    Path(product_id): Path<ProductId>,
    Key(key): Key,
    Json(AdjustStock { delta, reason }): Json<AdjustStock>,
) -> Result<Tagged<Stock>, Error> {
    let change = Change { product_id, action: Action::Adjust(delta, reason) };
    inventory.change(change, key.as_ref()).await.map(tagged)
}

fn tagged(stock: Stock) -> Tagged<Stock> {
    Tagged { version: stock.version, body: stock }
}

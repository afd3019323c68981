//! `GET`, `PUT`, `POST` and `PATCH /inventory/{product_id}`.

use axum::{extract::State, response::IntoResponse};
use chassis::{Fields, FromFields, Json, Path, Preconditions, Tagged, idempotency::IdempotencyKey};
use http::{Method, StatusCode};
use utoipa::ToSchema;

use super::access::StockWriter;
use crate::{
    engine::Inventory,
    error::Error,
    model::{Delta, ProductId, Quantity, Reason, Stock, Version, claim_set},
};

/// The new quantity on hand.
#[derive(ToSchema)]
pub(super) struct SetStock {
    stock: Quantity,
}

impl FromFields for SetStock {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        Some(Self { stock: fields.required("stock")? })
    }
}

/// A change to the quantity on hand.
#[derive(ToSchema)]
pub(super) struct AdjustStock {
    delta: Delta,
    /// The reason, recorded in the ledger.
    #[schema(value_type = Reason, required = false)]
    reason: Option<Reason>,
}

impl FromFields for AdjustStock {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let delta = fields.required("delta");
        let reason = fields.optional("reason");
        Some(Self { delta: delta?, reason: reason? })
    }
}

/// Get stock (unknown products have zero)
#[utoipa::path(
    get,
    path = "/inventory/{product_id}",
    operation_id = "getStock",
    tag = "inventory",
    params(("product_id" = inline(ProductId), Path, description = "The product's id.")),
    responses((status = OK, description = "The stock of the product.", body = Stock, headers(
        ("etag" = String, description = "The version of the product's stock."),
    ))),
)]
pub(super) async fn get(
    State(inventory): State<Inventory>,
    Path(product_id): Path<ProductId>,
) -> Result<Tagged<Stock, Version>, Error> {
    inventory.stock(product_id).await.map(tagged)
}

/// Set stock
#[utoipa::path(
    put,
    path = "/inventory/{product_id}",
    operation_id = "putStock",
    tag = "inventory",
    security(("bearer" = ["inventory:write"])),
    params(("product_id" = inline(ProductId), Path, description = "The product's id."), Preconditions, IdempotencyKey),
    request_body = SetStock,
    responses(
        (status = OK, description = "The new stock of a known product.", body = Stock, headers(
            ("etag" = String, description = "The version of the product's stock."),
        )),
        (status = CREATED, description = "The stock of a new product.", body = Stock, headers(
            ("etag" = String, description = "The version of the product's stock."),
        )),
        (status = CONFLICT, description = "The reserved quantity is larger than the new stock."),
    ),
)]
pub(super) async fn put(
    State(inventory): State<Inventory>,
    _: StockWriter,
    Path(product_id): Path<ProductId>,
    preconditions: Preconditions,
    key: Option<IdempotencyKey>,
    Json(SetStock { stock }): Json<SetStock>,
) -> Result<impl IntoResponse, Error> {
    let claim = key.map(|key| claim_set(&Method::PUT, &product_id, stock, &key));
    let stock = inventory.set(product_id, stock, preconditions, claim).await?;
    // A product is new if this is its first movement.
    let status = if stock.version.number == 1 { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, tagged(stock)))
}

/// Set stock (same effect as PUT; 201 for known products too)
#[utoipa::path(
    post,
    path = "/inventory/{product_id}",
    operation_id = "setStock",
    tag = "inventory",
    security(("bearer" = ["inventory:write"])),
    params(("product_id" = inline(ProductId), Path, description = "The product's id."), Preconditions, IdempotencyKey),
    request_body = SetStock,
    responses(
        (status = CREATED, description = "The new stock of the product.", body = Stock, headers(
            ("etag" = String, description = "The version of the product's stock."),
        )),
        (status = CONFLICT, description = "The reserved quantity is larger than the new stock."),
    ),
)]
pub(super) async fn set(
    State(inventory): State<Inventory>,
    _: StockWriter,
    Path(product_id): Path<ProductId>,
    preconditions: Preconditions,
    key: Option<IdempotencyKey>,
    Json(SetStock { stock }): Json<SetStock>,
) -> Result<impl IntoResponse, Error> {
    let claim = key.map(|key| claim_set(&Method::POST, &product_id, stock, &key));
    let stock = inventory.set(product_id, stock, preconditions, claim).await?;
    Ok((StatusCode::CREATED, tagged(stock)))
}

/// Adjust stock
///
/// Adds `delta` to the quantity on hand.
#[utoipa::path(
    patch,
    path = "/inventory/{product_id}",
    operation_id = "adjustStock",
    tag = "inventory",
    security(("bearer" = ["inventory:write"])),
    params(("product_id" = inline(ProductId), Path, description = "The product's id."), Preconditions, IdempotencyKey),
    request_body = AdjustStock,
    responses(
        (status = OK, description = "The new stock of the product.", body = Stock, headers(
            ("etag" = String, description = "The version of the product's stock."),
        )),
        (status = CONFLICT, description = "The quantity left would be smaller than the reserved quantity."),
    ),
)]
pub(super) async fn adjust(
    State(inventory): State<Inventory>,
    _: StockWriter,
    Path(product_id): Path<ProductId>,
    preconditions: Preconditions,
    key: Option<IdempotencyKey>,
    Json(AdjustStock { delta, reason }): Json<AdjustStock>,
) -> Result<Tagged<Stock, Version>, Error> {
    inventory.adjust(product_id, delta, reason, preconditions, key.as_ref()).await.map(tagged)
}

fn tagged(stock: Stock) -> Tagged<Stock, Version> {
    Tagged { version: stock.version, body: stock }
}

//! `POST /reservations`, `GET /reservations/{id}`, and its `commit` and `release`.

use axum::{extract::State, response::IntoResponse};
use chassis::{Fields, FromFields, Json, Path, ProblemBody, Tagged};
use http::{StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::idempotency_key::Key;
use crate::{
    engine::Inventory,
    error::Error,
    model::{
        Amount, Ending, Item, Items, NewReservation, NotAnId, ProductId, Refusal, Reservation, ReservationId, Shortage,
        TimeToLive,
    },
};

/// A reservation to be.
#[derive(ToSchema)]
pub(super) struct Reserve {
    /// All of them are held, or none. Of a product that comes twice the sum counts.
    #[schema(value_type = Vec<ReserveItem>, min_items = 1, max_items = 100)]
    items: Items,
    #[schema(value_type = TimeToLive, required = false)]
    ttl_seconds: Option<TimeToLive>,
}

/// So much of a product.
#[derive(ToSchema)]
pub(super) struct ReserveItem {
    product_id: ProductId,
    quantity: Amount,
}

/// Of some products there is not enough.
#[derive(Serialize, ToSchema)]
pub(super) struct InsufficientStock {
    #[serde(flatten)]
    problem: ProblemBody,
    /// Those of which there is not enough.
    items: Vec<Shortage>,
}

impl FromFields for ReserveItem {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let product_id = fields.required("product_id");
        let quantity = fields.required("quantity");
        Some(Self { product_id: product_id?, quantity: quantity? })
    }
}

impl FromFields for Reserve {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let items: Option<Vec<ReserveItem>> = fields.list("items");
        let items = items.and_then(|items| {
            let items = items.into_iter().map(|item| Item { product_id: item.product_id, quantity: item.quantity.0 });
            Items::merge(items.collect()).map_err(|fault| fields.note("items", fault)).ok()
        });
        let ttl_seconds = fields.optional("ttl_seconds");
        Some(Self { items: items?, ttl_seconds: ttl_seconds? })
    }
}

/// Hold some of one or several products: all of it, or nothing
#[utoipa::path(
    post,
    path = "/reservations",
    operation_id = "createReservation",
    tag = "reservations",
    params(Key),
    request_body = Reserve,
    responses(
        (status = CREATED, description = "The new reservation.", body = Reservation, headers(
            ("location" = String, description = "Its path."),
            ("etag" = String, description = "Its version."),
        )),
        (status = CONFLICT, description = "There is not enough of some products.", body = InsufficientStock,
         content_type = "application/problem+json"),
    ),
)]
pub(super) async fn create(
    State(inventory): State<Inventory>,
    Key(key): Key,
    Json(Reserve { items, ttl_seconds }): Json<Reserve>,
) -> Result<impl IntoResponse, Error> {
    let new = NewReservation { items, ttl: ttl_seconds.unwrap_or_default() };
    let reservation = inventory.reserve(new, key.as_ref()).await?;
    let location = [(header::LOCATION, format!("/reservations/{}", reservation.id))];
    Ok((StatusCode::CREATED, location, tagged(reservation)))
}

/// Read a reservation
#[utoipa::path(
    get,
    path = "/reservations/{id}",
    operation_id = "getReservation",
    tag = "reservations",
    params(("id" = Uuid, Path, description = "The reservation's id.")),
    responses(
        (status = OK, description = "The reservation.", body = Reservation, headers(
            ("etag" = String, description = "Its version."),
        )),
        (status = NOT_FOUND, description = "There is no such reservation."),
    ),
)]
pub(super) async fn get(
    State(inventory): State<Inventory>,
    Path(id): Path<String>,
) -> Result<Tagged<Reservation>, Error> {
    inventory.reservation(parse(&id)?).await.map(tagged)
}

/// Take what a reservation holds off the shelf; a committed one stays as it is
#[utoipa::path(
    post,
    path = "/reservations/{id}/commit",
    operation_id = "commitReservation",
    tag = "reservations",
    params(("id" = Uuid, Path, description = "The reservation's id.")),
    responses(
        (status = OK, description = "The reservation is committed.", body = Reservation, headers(
            ("etag" = String, description = "Its version."),
        )),
        (status = NOT_FOUND, description = "There is no such reservation."),
        (status = CONFLICT, description = "It was released, or has expired."),
    ),
)]
pub(super) async fn commit(
    State(inventory): State<Inventory>,
    Path(id): Path<String>,
) -> Result<Tagged<Reservation>, Error> {
    inventory.end(parse(&id)?, Ending::Commit).await.map(tagged)
}

/// Give back what a reservation holds; a released or expired one stays as it is
#[utoipa::path(
    post,
    path = "/reservations/{id}/release",
    operation_id = "releaseReservation",
    tag = "reservations",
    params(("id" = Uuid, Path, description = "The reservation's id.")),
    responses(
        (status = OK, description = "The reservation is released, or has expired.", body = Reservation, headers(
            ("etag" = String, description = "Its version."),
        )),
        (status = NOT_FOUND, description = "There is no such reservation."),
        (status = CONFLICT, description = "It was committed."),
    ),
)]
pub(super) async fn release(
    State(inventory): State<Inventory>,
    Path(id): Path<String>,
) -> Result<Tagged<Reservation>, Error> {
    inventory.end(parse(&id)?, Ending::Release).await.map(tagged)
}

/// Nothing is at a path whose id is none.
fn parse(id: &str) -> Result<ReservationId, Refusal> {
    id.parse().map_err(|NotAnId| Refusal::NoSuchReservation)
}

fn tagged(reservation: Reservation) -> Tagged<Reservation> {
    Tagged { version: reservation.version(), body: reservation }
}

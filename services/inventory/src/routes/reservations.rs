//! `POST /reservations`, `GET /reservations/{id}`, `POST /reservations/{id}/commit` and `…/release`.

use axum::{extract::State, response::IntoResponse};
use chassis::{Fields, FromFields, Json, Path, Preconditions, ProblemBody, Tagged, idempotency::IdempotencyKey};
use http::{StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::access::{ReservationReader, Reserver};
use crate::{
    engine::Inventory,
    error::Error,
    model::{
        Amount, InvalidId, Item, Items, NewReservation, ProductId, Refusal, Reservation, ReservationId, Shortage,
        TimeToLive, Transition,
    },
};

/// A request to reserve stock.
#[derive(ToSchema)]
pub(super) struct Reserve {
    /// Either all items are reserved or none. The quantities of a product that is listed several times are added up.
    #[schema(value_type = Vec<ReserveItem>, min_items = 1, max_items = 100)]
    items: Items,
    #[schema(value_type = TimeToLive, required = false)]
    ttl_seconds: Option<TimeToLive>,
}

/// A quantity of a product.
#[derive(ToSchema)]
pub(super) struct ReserveItem {
    product_id: ProductId,
    quantity: Amount,
}

/// A problem that lists the products without enough stock.
#[derive(Serialize, ToSchema)]
pub(super) struct InsufficientStock {
    #[serde(flatten)]
    problem: ProblemBody,
    /// The products without enough stock.
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
        let items: Option<Vec<ReserveItem>> = fields.list("items", 1..=Items::MAX);
        let items = items.and_then(|items| {
            let items = items.into_iter().map(|item| Item { product_id: item.product_id, quantity: item.quantity.0 });
            Items::merge(items.collect()).map_err(|error| fields.refuse("items", error)).ok()
        });
        let ttl_seconds = fields.optional("ttl_seconds");
        Some(Self { items: items?, ttl_seconds: ttl_seconds? })
    }
}

/// Reserve stock
///
/// Reserves all items or none.
#[utoipa::path(
    post,
    path = "/reservations",
    operation_id = "createReservation",
    tag = "reservations",
    security(("bearer" = ["reservations:write"])),
    params(IdempotencyKey),
    request_body = Reserve,
    responses(
        (status = CREATED, description = "The new reservation.", body = Reservation, headers(
            ("location" = String, description = "The path of the reservation."),
            ("etag" = String, description = "The version of the reservation."),
        )),
        (status = CONFLICT, description = "Some products do not have enough stock.", body = InsufficientStock,
         content_type = "application/problem+json"),
    ),
)]
pub(super) async fn create(
    State(inventory): State<Inventory>,
    Reserver(actor): Reserver,
    key: Option<IdempotencyKey>,
    Json(Reserve { items, ttl_seconds }): Json<Reserve>,
) -> Result<impl IntoResponse, Error> {
    let new = NewReservation { items, ttl: ttl_seconds.unwrap_or_default() };
    let reservation = inventory.reserve(actor, new, key.as_ref()).await?;
    let location = [(header::LOCATION, format!("/reservations/{}", reservation.id))];
    Ok((StatusCode::CREATED, location, tagged(reservation)))
}

/// Get a reservation
#[utoipa::path(
    get,
    path = "/reservations/{id}",
    operation_id = "getReservation",
    tag = "reservations",
    security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The reservation's id.")),
    responses(
        (status = OK, description = "The reservation.", body = Reservation, headers(
            ("etag" = String, description = "The version of the reservation."),
        )),
        (status = NOT_FOUND, description = "The reservation does not exist, or belongs to somebody else."),
    ),
)]
pub(super) async fn get(
    State(inventory): State<Inventory>,
    ReservationReader(actor): ReservationReader,
    Path(id): Path<String>,
) -> Result<Tagged<Reservation>, Error> {
    inventory.reservation(&actor, parse(&id)?).await.map(tagged)
}

/// Defines the route that commits or releases a reservation; the two differ only in their texts.
#[rustfmt::skip]
macro_rules! transition_route {
    (
        $name:ident, $path:literal, $operation:literal, $transition:expr,
        $summary:literal, $ok:literal, $conflict:literal
    ) => {
        #[utoipa::path(
            post,
            path = $path,
            operation_id = $operation,
            summary = $summary,
            tag = "reservations",
            security(("bearer" = ["reservations:write"])),
            params(("id" = Uuid, Path, description = "The reservation's id."), Preconditions, IdempotencyKey),
            responses(
                (status = OK, description = $ok, body = Reservation, headers(
                    ("etag" = String, description = "The version of the reservation."),
                )),
                (status = NOT_FOUND, description = "The reservation does not exist, or belongs to somebody else."),
                (status = CONFLICT, description = $conflict),
            ),
        )]
        pub(super) async fn $name(
            State(inventory): State<Inventory>,
            Reserver(actor): Reserver,
            Path(id): Path<String>,
            preconditions: Preconditions,
            key: Option<IdempotencyKey>,
        ) -> Result<Tagged<Reservation>, Error> {
            inventory.transition(actor, parse(&id)?, $transition, preconditions, key.as_ref()).await.map(tagged)
        }
    };
}

transition_route!(
    commit,
    "/reservations/{id}/commit",
    "commitReservation",
    Transition::Commit,
    "Commit a reservation: remove its items from the quantity on hand",
    "The committed reservation.",
    "The reservation was released or has expired."
);

transition_route!(
    release,
    "/reservations/{id}/release",
    "releaseReservation",
    Transition::Release,
    "Release a reservation: return its items to stock",
    "The released or expired reservation.",
    "The reservation was committed."
);

/// A malformed id is a 404.
fn parse(id: &str) -> Result<ReservationId, Refusal> {
    id.parse().map_err(|InvalidId| Refusal::NoSuchReservation)
}

fn tagged(reservation: Reservation) -> Tagged<Reservation> {
    Tagged { version: reservation.version(), body: reservation }
}

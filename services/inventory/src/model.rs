//! Products, quantities and movements; none of them can hold a bad value.

mod idempotency_key;
mod number;
mod refusal;
mod reservation;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

pub(crate) use contracts::ProductId;
pub(crate) use idempotency_key::IdempotencyKey;
pub(crate) use number::{Amount, Delta, MAX_QUANTITY, Quantity, TimeToLive};
pub use refusal::Refusal;
pub(crate) use refusal::Shortage;
pub use reservation::ReservationState;
pub(crate) use reservation::{Ending, Item, Items, NewReservation, NotAnId, Reservation, ReservationId};

/// The stock of a product as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the names are the API's")]
pub struct Stock {
    pub(crate) product_id: ProductId,
    /// What can be had now: `on_hand` less `reserved`.
    #[schema(minimum = 0)]
    pub(crate) stock: i64,
    /// What is on the shelf.
    #[schema(minimum = 0)]
    pub(crate) on_hand: i64,
    /// What of it is held for somebody.
    #[schema(minimum = 0)]
    pub(crate) reserved: i64,
    /// The number of the last movement, and one for each hold that has expired and is not in the ledger yet; the `ETag`.
    #[serde(skip)]
    pub(crate) version: i64,
}

impl Stock {
    pub(crate) fn new(product_id: ProductId, counters: Counters) -> Self {
        let Counters { on_hand, reserved, version } = counters;
        Self { product_id, stock: on_hand - reserved, on_hand, reserved, version }
    }
}

/// A product's counters, and how many movements led to them. The default is that of an unknown product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counters {
    pub(crate) on_hand: i64,
    pub(crate) reserved: i64,
    pub(crate) version: i64,
}

/// A change of one product's stock.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) product_id: ProductId,
    pub(crate) action: Action,
}

/// What to do with a product's stock.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// Set what is on hand.
    Set(Quantity),
    /// Add to what is on hand, or take from it.
    Adjust(Delta, Option<Reason>),
}

/// Why stock was adjusted: at most 200 characters.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, max_length = 200, pattern = r"^[^\u0000]*$", examples("damaged"))]
pub(crate) struct Reason(String);

impl Reason {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Reason {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.chars().count() {
            201.. => Err("must have at most 200 characters"),
            _ if text.contains('\0') => Err("must not hold a NUL character"),
            _ => Ok(Self(text)),
        }
    }
}

/// One line of a product's ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Movement {
    pub(crate) product_id: String,
    /// Its number: 1 for the product's first movement, without gaps.
    #[schema(minimum = 1)]
    pub(crate) version: i64,
    #[schema(value_type = MovementKind)]
    pub(crate) kind: String,
    pub(crate) on_hand_delta: i64,
    pub(crate) reserved_delta: i64,
    /// What was on hand after it.
    #[schema(minimum = 0)]
    pub(crate) on_hand: i64,
    /// What was reserved after it.
    #[schema(minimum = 0)]
    pub(crate) reserved: i64,
    pub(crate) reason: Option<String>,
    /// The reservation it belongs to.
    pub(crate) reservation_id: Option<Uuid>,
    pub(crate) at: DateTime<Utc>,
}

/// What a movement was.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "it only documents the column")]
pub(crate) enum MovementKind {
    Set,
    Adjust,
    Hold,
    Commit,
    Release,
    Expire,
}

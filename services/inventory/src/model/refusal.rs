//! Why the rules of stock refuse a request.

use chassis::idempotency::KeyReused;
use contracts::ProductId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::reservation::ReservationState;

/// The reason a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Less would be on hand than is reserved.
    #[error("this would leave {left} on hand, which is less than the reserved quantity of {reserved}")]
    InsufficientStock {
        /// The quantity that would be on hand.
        left: i64,
        /// The quantity reserved.
        reserved: i64,
    },
    /// More would be on hand than JSON can represent exactly.
    #[error("this would leave more than 9007199254740991 on hand")]
    TooLarge,
    /// The version is not one that the request allows.
    #[error("the current `ETag` does not meet `If-Match` or `If-None-Match`; read it again")]
    PreconditionFailed,
    /// A reservation asks for more of these products than is available.
    #[error("insufficient stock of {}", names(.0))]
    Shortage(Vec<Shortage>),
    /// The reservation does not exist.
    #[error("there is no reservation with this id")]
    NoSuchReservation,
    /// The reservation has already ended.
    #[error("the reservation is already {}", .0.name())]
    WrongState(ReservationState),
    /// An earlier request used the same `Idempotency-Key`.
    #[error(transparent)]
    KeyReused(#[from] KeyReused),
}

/// A product without enough stock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Shortage {
    pub(crate) product_id: ProductId,
    /// The quantity requested.
    #[schema(minimum = 1)]
    pub(crate) quantity: i64,
    /// The quantity available.
    #[schema(minimum = 0)]
    pub(crate) stock: i64,
}

fn names(shortages: &[Shortage]) -> String {
    let names: Vec<&str> = shortages.iter().map(|shortage| shortage.product_id.as_str()).collect();
    names.join(", ")
}

//! What the rules of stock forbid.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ProductId, ReservationState};

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Less would be on hand than is reserved.
    #[error("this would leave {left} on hand, with {reserved} reserved")]
    InsufficientStock {
        /// What would be on hand.
        left: i64,
        /// What is reserved.
        reserved: i64,
    },
    /// More would be on hand than can be counted exactly in JSON.
    #[error("this would leave more than 9007199254740991 on hand")]
    TooLarge,
    /// Of these products less can be had than a reservation asks for.
    #[error("there is not enough of {}", names(.0))]
    Shortage(Vec<Shortage>),
    /// There is no such reservation.
    #[error("there is no reservation with this id")]
    NoSuchReservation,
    /// A reservation in this state does not change any more.
    #[error("the reservation is {}", .0.name())]
    WrongState(ReservationState),
    /// The `Idempotency-Key` came with another request before.
    #[error("this Idempotency-Key was used for another request")]
    KeyReused,
}

/// A product of which there is not enough.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Shortage {
    pub(crate) product_id: ProductId,
    /// How much of it was asked for.
    #[schema(minimum = 1)]
    pub(crate) quantity: i64,
    /// How much of it can be had.
    #[schema(minimum = 0)]
    pub(crate) stock: i64,
}

fn names(shortages: &[Shortage]) -> String {
    let names: Vec<&str> = shortages.iter().map(|shortage| shortage.product_id.as_str()).collect();
    names.join(", ")
}

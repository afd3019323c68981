//! The domain's types: values that cannot be invalid, and what the engine and the store exchange. No I/O.

mod actor;
mod changeset;
mod idempotency;
mod movement;
mod number;
mod refusal;
mod reservation;
mod retention;
mod stock;

pub(crate) use actor::{Actor, RESERVATIONS_WRITE, STOCK_WRITE};
#[cfg(test)]
pub(crate) use changeset::ExpiryChange;
pub(crate) use changeset::{Cause, Changeset, CommitMarker, DueExpiries, NewMovement, ProductRow};
pub(crate) use contracts::{InvalidId, ProductId, ResourceId as ReservationId};
pub(crate) use idempotency::{
    Replayable, StoredResponse, claim_adjustment, claim_reservation, claim_set, claim_transition, replay, to_stored,
};
pub(crate) use movement::{Movement, Reason};
pub(crate) use number::{Amount, Delta, MAX_QUANTITY, Quantity, TimeToLive};
pub use refusal::Refusal;
pub(crate) use refusal::Shortage;
pub use reservation::ReservationState;
pub(crate) use reservation::{Item, Items, NewReservation, Reservation, Transition};
pub use retention::Retention;
pub(crate) use stock::{Action, Change, Counters, Stock, Version};

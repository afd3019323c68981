//! The domain's types: values that cannot be invalid, and what the engine and the store exchange. No I/O.

mod changeset;
mod idempotency;
mod movement;
mod number;
mod refusal;
mod reservation;
mod stock;

#[cfg(test)]
pub(crate) use changeset::ExpiryChange;
pub(crate) use changeset::{Cause, Changeset, CommitMarker, DueExpiries, NewMovement, ProductRow};
pub(crate) use contracts::{InvalidId, ProductId, ResourceId as ReservationId};
pub(crate) use idempotency::{Claim, Digest, IdempotencyKey, IdempotencyRecord, RETENTION_HOURS, Replayable};
pub(crate) use movement::{Movement, Reason};
pub(crate) use number::{Amount, Delta, MAX_QUANTITY, Quantity, TimeToLive};
pub use refusal::Refusal;
pub(crate) use refusal::Shortage;
pub use reservation::ReservationState;
pub(crate) use reservation::{Item, Items, NewReservation, RETENTION_DAYS, Reservation, Transition};
pub(crate) use stock::{Action, Change, Counters, Stock, Version};

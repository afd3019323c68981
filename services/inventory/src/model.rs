//! The domain's types: values that cannot be invalid, and what the engine and the store exchange. No I/O.

mod changeset;
mod idempotency;
mod movement;
mod number;
mod refusal;
mod reservation;
mod stock;

pub(crate) use changeset::{Changeset, CommitMarker, Hold, LockedReservation, NewMovement, OverdueLine, ProductRow};
pub(crate) use contracts::ProductId;
pub(crate) use idempotency::{Claim, Digest, IdempotencyKey, IdempotencyRecord, Replayable};
pub(crate) use movement::{Movement, Reason};
pub(crate) use number::{Amount, Delta, MAX_QUANTITY, Quantity, TimeToLive};
pub use refusal::Refusal;
pub(crate) use refusal::Shortage;
pub use reservation::ReservationState;
pub(crate) use reservation::{InvalidId, Item, Items, NewReservation, Reservation, ReservationId, Transition};
pub(crate) use stock::{Action, Change, Counters, Stock};

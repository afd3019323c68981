//! What the engine reads under locks, and what it asks the store to write.

use chrono::{DateTime, Utc};
use contracts::{ProductId, ResourceId as ReservationId};
use uuid::Uuid;

use super::{
    idempotency::{Digest, IdempotencyRecord},
    movement::Reason,
    reservation::{Reservation, ReservationState},
    stock::Counters,
};

/// A product's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ProductRow {
    pub(crate) counters: Counters,
    /// A lower bound for the expiry of the product's live lines; `None` if it has none.
    pub(crate) next_expiry: Option<DateTime<Utc>>,
    /// Whether the row must be written.
    pub(crate) changed: bool,
}

/// A line of a reservation that has expired and still counts as reserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OverdueLine {
    pub(crate) reservation_id: ReservationId,
    pub(crate) product_id: ProductId,
    pub(crate) quantity: i64,
    /// Whether this is the reservation's first line. Settling the first line expires the reservation.
    pub(crate) is_first: bool,
}

/// A reservation whose products are locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockedReservation {
    pub(crate) reservation: Reservation,
    /// Whether all of its lines still count as reserved.
    pub(crate) all_lines_live: bool,
}

/// A movement to append to the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewMovement {
    pub(crate) product_id: ProductId,
    pub(crate) kind: &'static str,
    pub(crate) on_hand_delta: i64,
    pub(crate) reserved_delta: i64,
    /// The counters after this movement.
    pub(crate) after: Counters,
    pub(crate) reason: Option<Reason>,
    pub(crate) reservation_id: Option<ReservationId>,
}

/// A reservation to insert. Its lines are the movements of kind `hold`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) id: ReservationId,
    pub(crate) expires_at: DateTime<Utc>,
}

/// Everything that a batch writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changeset {
    /// Movements to append, in order.
    pub(crate) movements: Vec<NewMovement>,
    /// The changed products, in their new state.
    pub(crate) products: Vec<(ProductId, ProductRow)>,
    /// Reservations to insert.
    pub(crate) holds: Vec<Hold>,
    /// Lines that no longer count as reserved.
    pub(crate) closed_lines: Vec<(ReservationId, ProductId)>,
    /// Reservations that ended, with their final state.
    pub(crate) ended: Vec<(ReservationId, ReservationState)>,
    /// Responses to store.
    pub(crate) records: Vec<(Digest, IdempotencyRecord)>,
}

impl Changeset {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A movement that only one transaction can have written. Its presence proves that the transaction was committed.
#[derive(Debug, Clone)]
pub(crate) struct CommitMarker {
    pub(crate) product_id: ProductId,
    pub(crate) version: i64,
    pub(crate) batch: Uuid,
}

//! What the engine reads under locks, and what it asks the store to write.

use std::collections::BTreeMap;

use chassis::idempotency::Stored;
use chrono::{DateTime, Utc};
use contracts::{ProductId, ResourceId as ReservationId};
use uuid::Uuid;

use super::{
    idempotency::StoredResponse,
    movement::Reason,
    reservation::{Reservation, ReservationState},
    stock::Counters,
};

/// A product's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ProductRow {
    pub(crate) counters: Counters,
    /// A lower bound for the expiry of the product's holds; `None` if it has none.
    pub(crate) next_expiry: Option<DateTime<Utc>>,
    /// Holds that expire at this time or before no longer count as reserved.
    pub(crate) settled_until: DateTime<Utc>,
    /// Whether the row must be written.
    pub(crate) changed: bool,
}

/// The expiries of a product that are due but still count as reserved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DueExpiries {
    /// The sum of the quantities.
    pub(crate) quantity: i64,
    /// The number of holds.
    pub(crate) holds: i64,
    /// When the next holds expire, if there are more.
    pub(crate) next_expiry: Option<DateTime<Utc>>,
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
    pub(crate) cause: Cause,
}

/// What caused a movement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A change to the quantity on hand.
    Change(Option<Reason>),
    /// A reservation was made or ended.
    Reservation(ReservationId),
    /// This number of holds expired, up to this time.
    Expiry { holds: i64, until: DateTime<Utc> },
}

/// The change to what a product's holds that expire at the same time add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ExpiryChange {
    pub(crate) quantity: i64,
    pub(crate) holds: i64,
}

/// Everything that a batch writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changeset {
    /// Movements to append, in order.
    pub(crate) movements: Vec<NewMovement>,
    /// The changed products, in their new state.
    pub(crate) products: Vec<(ProductId, ProductRow)>,
    /// Reservations to insert.
    pub(crate) holds: Vec<Reservation>,
    /// Changes to the sums of expiries.
    pub(crate) expiries: BTreeMap<(ProductId, DateTime<Utc>), ExpiryChange>,
    /// Reservations that were committed or released.
    pub(crate) ended: Vec<(ReservationId, ReservationState)>,
    /// Responses to store.
    pub(crate) responses: Vec<Stored<StoredResponse>>,
}

impl Changeset {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a transaction wrote. Its presence shows that the results hold.
#[derive(Debug, Clone)]
pub(crate) enum CommitMarker {
    /// A movement that only this transaction can have written.
    Movement { product_id: ProductId, version: i64, batch: Uuid },
    /// All that a transaction without a movement wrote, such as refusals. The same responses hold whoever stored them.
    Responses(Vec<Stored<StoredResponse>>),
}

//! The decision, in memory and in order of arrival, about a batch whose rows are locked. It is pure: what it needs to
//! know is in [`Locked`], what is to be written in [`Writes`].

mod reservations;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::{
    idempotency::{Digest, Kept, Record},
    request::{Command, Decided, Done, Request},
};
use crate::model::{
    Action, Change, Counters, MAX_QUANTITY, ProductId, Reason, Refusal, Reservation, ReservationId, ReservationState,
    Stock,
};

/// What is known about the rows of a batch.
#[derive(Debug, Clone, Default)]
pub(super) struct Locked {
    /// When it is, by the clock of the database: not before the rows were locked.
    pub(super) now: DateTime<Utc>,
    /// The products that there are.
    pub(super) products: HashMap<ProductId, Product>,
    /// Their lines that have expired and still count as reserved, in order of their expiry.
    pub(super) overdue: Vec<OverdueLine>,
    /// The reservations that the batch ends.
    pub(super) reservations: HashMap<ReservationId, Known>,
    /// Answers that are kept under keys of the batch.
    pub(super) records: HashMap<Digest, Record>,
}

/// A product's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Product {
    pub(crate) counters: Counters,
    /// No live line expires before this.
    pub(crate) next_expiry: Option<DateTime<Utc>>,
    /// Whether it is to be written.
    pub(crate) changed: bool,
}

/// A line of a reservation, to be settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OverdueLine {
    pub(crate) reservation_id: ReservationId,
    pub(crate) product_id: ProductId,
    pub(crate) quantity: i64,
    /// Whether it is its reservation's first, whose settling ends the reservation.
    pub(crate) is_first: bool,
}

/// A reservation that is to be ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) reservation: Reservation,
    /// Whether all of its lines still count as reserved.
    pub(crate) is_whole: bool,
}

/// A movement to be: the counters after it, and what led there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) product_id: ProductId,
    pub(crate) kind: &'static str,
    pub(crate) on_hand_delta: i64,
    pub(crate) reserved_delta: i64,
    pub(crate) after: Counters,
    pub(crate) reason: Option<Reason>,
    pub(crate) reservation_id: Option<ReservationId>,
}

/// A reservation to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) id: ReservationId,
    pub(crate) expires_at: DateTime<Utc>,
}

/// What is to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Writes {
    /// What to add to the ledger, in order.
    pub(crate) entries: Vec<Entry>,
    /// The products that changed, as they now are.
    pub(crate) products: Vec<(ProductId, Product)>,
    /// New reservations; their lines are the entries of kind `hold`.
    pub(crate) holds: Vec<Hold>,
    /// Lines that no longer count as reserved.
    pub(crate) closed: Vec<(ReservationId, ProductId)>,
    /// Reservations that have come to an end.
    pub(crate) ended: Vec<(ReservationId, ReservationState)>,
    /// Answers to keep.
    pub(crate) records: Vec<(Digest, Record)>,
}

impl Writes {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Decides each request on what those before it left behind; overdue lines are settled before all of them. The answers
/// are in order of the requests.
pub(super) fn decide(requests: &[Request], locked: Locked) -> (Vec<Decided>, Writes) {
    let mut decider = Decider { locked, writes: Writes::default() };
    decider.settle();
    let answers = requests.iter().map(|request| decider.answer(request)).collect();
    let Decider { locked, mut writes } = decider;
    writes.products = locked.products.into_iter().filter(|(_, product)| product.changed).collect();
    (answers, writes)
}

struct Decider {
    locked: Locked,
    writes: Writes,
}

/// A change of a product's counters.
struct Booking<'a> {
    product_id: &'a ProductId,
    kind: &'static str,
    on_hand: i64,
    reserved: i64,
}

impl Decider {
    /// Settles the overdue lines.
    fn settle(&mut self) {
        for OverdueLine { reservation_id, product_id, quantity, is_first } in std::mem::take(&mut self.locked.overdue) {
            let booking = Booking { product_id: &product_id, kind: "expire", on_hand: 0, reserved: -quantity };
            self.book(&booking, None, Some(reservation_id));
            self.writes.closed.push((reservation_id, product_id));
            if is_first {
                self.writes.ended.push((reservation_id, ReservationState::Expired));
            }
            if let Some(known) = self.locked.reservations.get_mut(&reservation_id) {
                known.reservation.state = ReservationState::Expired;
            }
        }
    }

    /// Decides a request, unless its answer is kept.
    fn answer(&mut self, request: &Request) -> Decided {
        let Some(claim) = &request.claim else { return self.decide(&request.command) };
        if let Some(record) = self.locked.records.get(&claim.id) {
            let is_same = record.fingerprint == claim.fingerprint;
            return if is_same { record.answer.clone().into() } else { Err(Refusal::KeyReused) };
        }
        let decided = self.decide(&request.command);
        if let Some(answer) = Kept::of(&decided) {
            let record = Record { fingerprint: claim.fingerprint, answer };
            // A twin in this very batch is to find it.
            self.locked.records.insert(claim.id, record.clone());
            self.writes.records.push((claim.id, record));
        }
        decided
    }

    fn decide(&mut self, command: &Command) -> Decided {
        match command {
            Command::Change(change) => self.change(change).map(Done::Stock),
            Command::Reserve(id, new) => self.reserve(*id, new).map(Done::Reservation),
            Command::End(id, ending) => self.end(*id, *ending).map(Done::Reservation),
            Command::Settle(_) => Ok(Done::Settled),
        }
    }

    /// Changes what is on hand.
    fn change(&mut self, Change { product_id, action }: &Change) -> Result<Stock, Refusal> {
        let before = self.counters(product_id);
        let (on_hand, kind, reason) = match action {
            Action::Set(quantity) => (quantity.0, "set", None),
            // Both are within 2^53 of zero: the sum does not overflow.
            Action::Adjust(delta, reason) => (before.on_hand + delta.0, "adjust", reason.clone()),
        };
        if on_hand < before.reserved {
            return Err(Refusal::InsufficientStock { left: on_hand, reserved: before.reserved });
        }
        if on_hand > MAX_QUANTITY {
            return Err(Refusal::TooLarge);
        }
        let booking = Booking { product_id, kind, on_hand: on_hand - before.on_hand, reserved: 0 };
        let after = self.book(&booking, reason, None);
        Ok(Stock::new(product_id.clone(), after))
    }

    fn counters(&self, product_id: &ProductId) -> Counters {
        self.locked.products.get(product_id).copied().unwrap_or_default().counters
    }

    /// The only place where counters change: with each change goes its line of the ledger.
    fn book(
        &mut self,
        booking: &Booking<'_>,
        reason: Option<Reason>,
        reservation_id: Option<ReservationId>,
    ) -> Counters {
        let product_id = booking.product_id;
        let product = self.locked.products.entry(product_id.clone()).or_default();
        product.changed = true;
        product.counters.on_hand += booking.on_hand;
        product.counters.reserved += booking.reserved;
        product.counters.version += 1;
        if product.counters.reserved == 0 {
            // Each live line reserves something: there is none.
            product.next_expiry = None;
        }
        let after = product.counters;
        self.writes.entries.push(Entry {
            product_id: product_id.clone(),
            kind: booking.kind,
            on_hand_delta: booking.on_hand,
            reserved_delta: booking.reserved,
            after,
            reason,
            reservation_id,
        });
        after
    }
}

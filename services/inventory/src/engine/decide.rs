//! Decides the requests of a batch in order of arrival. Pure: it reads [`LockedRows`] and returns a [`Changeset`].

#[cfg(test)]
mod tests;

use std::{collections::HashMap, fmt::Display};

use chassis::{
    Preconditions,
    idempotency::{Claim, Digest, Stored},
};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};

use super::request::Request;
use crate::model::{
    Action, Actor, Cause, Change, Changeset, Counters, DueExpiries, Item, MAX_QUANTITY, NewMovement, NewReservation,
    ProductId, ProductRow, Refusal, Replayable, Reservation, ReservationId, ReservationState, Shortage, Stock,
    StoredResponse, Transition, replay, to_stored,
};

/// The rows that a batch depends on, read while they are locked.
#[derive(Debug, Clone, Default)]
pub(super) struct LockedRows {
    /// The database's time, at or after the rows were locked. A product may be settled up to a later time.
    pub(super) now: DateTime<Utc>,
    /// The products that exist.
    pub(super) products: HashMap<ProductId, ProductRow>,
    /// What expired until now and is not settled, of those products that are due.
    pub(super) due: HashMap<ProductId, DueExpiries>,
    /// The reservations that the batch commits or releases.
    pub(super) reservations: HashMap<ReservationId, Reservation>,
    /// Responses stored under keys of the batch.
    pub(super) responses: HashMap<Digest, Stored<StoredResponse>>,
}

/// Settles what expired, then decides each request based on the effects of those before it. The result of each request
/// is set on its reply.
pub(super) fn decide(requests: &mut [Request], rows: LockedRows) -> Changeset {
    let mut decider = Decider { rows, changeset: Changeset::default() };
    decider.settle_due_expiries();
    for request in requests {
        decider.decide(request);
    }
    let Decider { rows, mut changeset } = decider;
    changeset.products = rows.products.into_iter().filter(|(_, product)| product.changed).collect();
    changeset
}

/// Checks the preconditions against a version that cannot change before the batch is committed.
fn check(preconditions: &Preconditions, version: impl Display) -> Result<(), Refusal> {
    if preconditions.allow(version) { Ok(()) } else { Err(Refusal::PreconditionFailed) }
}

struct Decider {
    rows: LockedRows,
    changeset: Changeset,
}

/// A change to a product's counters.
struct CounterChange<'a> {
    product_id: &'a ProductId,
    kind: &'static str,
    on_hand: i64,
    reserved: i64,
}

impl Decider {
    /// Settles all expired holds of a product with one movement. Their reservations are not read or written: the time
    /// alone says that they have expired.
    fn settle_due_expiries(&mut self) {
        let until = self.settling_until();
        for (product_id, DueExpiries { quantity, holds, next_expiry }) in std::mem::take(&mut self.rows.due) {
            if holds > 0 {
                let change = CounterChange { product_id: &product_id, kind: "expire", on_hand: 0, reserved: -quantity };
                self.apply(&change, Cause::Expiry { holds, until });
            }
            let product = self.rows.products.entry(product_id).or_default();
            product.settled_until = product.settled_until.max(until);
            (product.next_expiry, product.changed) = (next_expiry, true);
        }
    }

    /// Holds expire at full seconds, so this settles the same as `now`.
    fn settling_until(&self) -> DateTime<Utc> {
        self.rows.now.trunc_subsecs(0)
    }

    /// The time up to which one of these products is settled, if that is known to be later than now: by the clock of
    /// another server, or before the clock was set back.
    fn settled_until<'a>(&self, product_ids: impl Iterator<Item = &'a ProductId>) -> DateTime<Utc> {
        let products = product_ids.filter_map(|product_id| self.rows.products.get(product_id));
        products.map(|product| product.settled_until).max().unwrap_or_default()
    }

    fn decide(&mut self, request: &mut Request) {
        match request {
            Request::Change { change, preconditions, claim, reply } => {
                reply.set(self.decide_once(claim.as_ref(), |decider| {
                    check(preconditions, decider.counters(&change.product_id).version)?;
                    decider.change(change)
                }));
            }
            Request::Reserve { id, actor, new, claim, reply } => {
                reply.set(self.decide_once(claim.as_ref(), |decider| decider.reserve(*id, actor, new)));
            }
            Request::Transition { id, actor, transition, preconditions, claim, reply } => {
                reply.set(
                    self.decide_once(claim.as_ref(), |decider| {
                        decider.transition(*id, actor, *transition, preconditions)
                    }),
                );
            }
            Request::Settle { product_id, reply } => {
                let until = self.settling_until();
                if let Some(product) = self.rows.products.get_mut(product_id)
                    && product.settled_until < until
                {
                    // What was due has been settled. A product without holds says so from now on, too.
                    (product.settled_until, product.changed) = (until, true);
                }
                reply.set(Ok::<(), Refusal>(()));
            }
        }
    }

    /// Decides a request unless a response is stored under its key.
    fn decide_once<T: Replayable>(
        &mut self,
        claim: Option<&Claim>,
        decide: impl FnOnce(&mut Self) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let Some(claim) = claim else { return decide(self) };
        if let Some(stored) = self.rows.responses.get(&claim.id) {
            return replay(stored.clone(), claim);
        }
        let result = decide(self);
        if let Some(stored) = to_stored(claim, &result) {
            // A duplicate later in this batch must find it.
            self.rows.responses.insert(claim.id, stored.clone());
            self.changeset.responses.push(stored);
        }
        result
    }

    /// Changes the quantity on hand.
    fn change(&mut self, Change { product_id, action }: &Change) -> Result<Stock, Refusal> {
        let before = self.counters(product_id);
        let (on_hand, kind, reason) = match action {
            Action::Set(quantity) => (quantity.0, "set", None),
            // Both numbers are below 2^53, so the sum cannot overflow.
            Action::Adjust(delta, reason) => (before.on_hand + delta.0, "adjust", reason.clone()),
        };
        if on_hand < before.reserved {
            return Err(Refusal::InsufficientStock { left: on_hand, reserved: before.reserved });
        }
        if on_hand > MAX_QUANTITY {
            return Err(Refusal::TooLarge);
        }
        let change = CounterChange { product_id, kind, on_hand: on_hand - before.on_hand, reserved: 0 };
        let after = self.apply(&change, Cause::Change(reason));
        Ok(Stock::new(product_id.clone(), after))
    }

    /// Reserves all items or none.
    fn reserve(&mut self, id: ReservationId, actor: &Actor, new: &NewReservation) -> Result<Reservation, Refusal> {
        let shortages = new.items.as_slice().iter().filter_map(|item| {
            let counters = self.counters(&item.product_id);
            let stock = counters.on_hand - counters.reserved;
            let (product_id, quantity) = (item.product_id.clone(), item.quantity);
            (quantity > stock).then_some(Shortage { product_id, quantity, stock })
        });
        let shortages: Vec<Shortage> = shortages.collect();
        if !shortages.is_empty() {
            return Err(Refusal::Shortage(shortages));
        }
        let settled_until = self.settled_until(new.items.as_slice().iter().map(|item| &item.product_id));
        let expires_at = end_of_second(self.rows.now + TimeDelta::seconds(new.ttl.0));
        // A hold must expire after everything that is settled, and so lasts longer than was asked for if that is far
        // ahead.
        let expires_at = expires_at.max(settled_until.trunc_subsecs(0) + TimeDelta::seconds(1));
        for item in new.items.as_slice() {
            let (product_id, reserved) = (&item.product_id, item.quantity);
            let change = CounterChange { product_id, kind: "hold", on_hand: 0, reserved };
            self.apply(&change, Cause::Reservation(id));
            self.change_expiry(item, expires_at, 1);
            if let Some(product) = self.rows.products.get_mut(product_id) {
                product.next_expiry = Some(product.next_expiry.map_or(expires_at, |next| next.min(expires_at)));
            }
        }
        let (subject, items) = (actor.subject.clone(), new.items.clone());
        let reservation = Reservation { id, subject, state: ReservationState::Held, items, expires_at };
        self.changeset.holds.push(reservation.clone());
        Ok(reservation)
    }

    /// Commits or releases a reservation, unless that has already happened.
    fn transition(
        &mut self,
        id: ReservationId,
        actor: &Actor,
        transition: Transition,
        preconditions: &Preconditions,
    ) -> Result<Reservation, Refusal> {
        let reservation = self.rows.reservations.get(&id).filter(|reservation| actor.may_access(reservation));
        let mut reservation = reservation.ok_or(Refusal::NoSuchReservation)?.clone();
        // What was settled for one of its products stays so, even if that was ahead of the time. Other reservations do
        // not depend on it.
        let settled_until = self.settled_until(reservation.items.as_slice().iter().map(|item| &item.product_id));
        if reservation.state == ReservationState::Held && reservation.expires_at <= self.rows.now.max(settled_until) {
            reservation.state = ReservationState::Expired;
        }
        check(preconditions, reservation.version())?;
        let (state, kind) = match (reservation.state, transition) {
            (ReservationState::Held, Transition::Commit) => (ReservationState::Committed, "commit"),
            (ReservationState::Held, Transition::Release) => (ReservationState::Released, "release"),
            (ReservationState::Committed, Transition::Commit)
            | (ReservationState::Released | ReservationState::Expired, Transition::Release) => return Ok(reservation),
            (state, _) => return Err(Refusal::WrongState(state)),
        };
        for item in reservation.items.as_slice() {
            let on_hand = if transition == Transition::Commit { -item.quantity } else { 0 };
            let change = CounterChange { product_id: &item.product_id, kind, on_hand, reserved: -item.quantity };
            self.apply(&change, Cause::Reservation(id));
            self.change_expiry(item, reservation.expires_at, -1);
        }
        self.changeset.ended.push((id, state));
        reservation.state = state;
        self.rows.reservations.insert(id, reservation.clone());
        Ok(reservation)
    }

    fn counters(&self, product_id: &ProductId) -> Counters {
        self.rows.products.get(product_id).copied().unwrap_or_default().counters
    }

    /// Adds a hold of an item to what expires at a time (1), or removes one (-1).
    fn change_expiry(&mut self, item: &Item, expires_at: DateTime<Utc>, holds: i64) {
        let change = self.changeset.expiries.entry((item.product_id.clone(), expires_at)).or_default();
        change.quantity += holds * item.quantity;
        change.holds += holds;
    }

    /// Changes counters and appends the movement to the ledger. Nothing else changes counters.
    fn apply(&mut self, change: &CounterChange<'_>, cause: Cause) -> Counters {
        let product_id = change.product_id;
        let product = self.rows.products.entry(product_id.clone()).or_default();
        product.changed = true;
        product.counters.on_hand += change.on_hand;
        product.counters.reserved += change.reserved;
        // A movement has a number for each hold that it settles: readers count expired holds before they are settled.
        let version = &mut product.counters.version;
        if let Cause::Expiry { holds, .. } = cause {
            version.number += holds;
            version.expired += holds;
        } else {
            version.number += 1;
        }
        if product.counters.reserved == 0 {
            // Every hold reserves something, so there is none.
            product.next_expiry = None;
        }
        let after = product.counters;
        self.changeset.movements.push(NewMovement {
            product_id: product_id.clone(),
            kind: change.kind,
            on_hand_delta: change.on_hand,
            reserved_delta: change.reserved,
            after,
            cause,
        });
        after
    }
}

/// Rounds up to a full second, so that the holds of a product that expire in the same second do so together.
fn end_of_second(time: DateTime<Utc>) -> DateTime<Utc> {
    let second = time.trunc_subsecs(0);
    if second == time { time } else { second + TimeDelta::seconds(1) }
}

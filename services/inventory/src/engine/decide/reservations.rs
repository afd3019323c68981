//! Decisions about reservations.

use chrono::TimeDelta;

use super::{Booking, Decider, Hold};
use crate::model::{Ending, NewReservation, Refusal, Reservation, ReservationId, ReservationState, Shortage};

impl Decider {
    /// Holds all items of a reservation, or none.
    pub(super) fn reserve(&mut self, id: ReservationId, new: &NewReservation) -> Result<Reservation, Refusal> {
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
        let expires_at = self.locked.now + TimeDelta::seconds(new.ttl.0);
        for item in new.items.as_slice() {
            let booking = Booking { product_id: &item.product_id, kind: "hold", on_hand: 0, reserved: item.quantity };
            self.book(&booking, None, Some(id));
            if let Some(product) = self.locked.products.get_mut(&item.product_id) {
                product.next_expiry = Some(product.next_expiry.map_or(expires_at, |next| next.min(expires_at)));
            }
        }
        self.writes.holds.push(Hold { id, expires_at });
        Ok(Reservation { id, state: ReservationState::Held, items: new.items.clone(), expires_at })
    }

    /// Ends a reservation, unless it has ended so already.
    pub(super) fn end(&mut self, id: ReservationId, ending: Ending) -> Result<Reservation, Refusal> {
        let known = self.locked.reservations.get(&id).ok_or(Refusal::NoSuchReservation)?;
        let mut reservation = known.reservation.clone();
        // Where a line is settled or the time is up, it is over, whether or not its own row says so yet.
        let is_over = !known.is_whole || reservation.expires_at <= self.locked.now;
        if reservation.state == ReservationState::Held && is_over {
            reservation.state = ReservationState::Expired;
        }
        let (state, kind) = match (reservation.state, ending) {
            (ReservationState::Held, Ending::Commit) => (ReservationState::Committed, "commit"),
            (ReservationState::Held, Ending::Release) => (ReservationState::Released, "release"),
            (ReservationState::Committed, Ending::Commit)
            | (ReservationState::Released | ReservationState::Expired, Ending::Release) => return Ok(reservation),
            (state, _) => return Err(Refusal::WrongState(state)),
        };
        for item in reservation.items.as_slice() {
            let taken = if ending == Ending::Commit { -item.quantity } else { 0 };
            let booking = Booking { product_id: &item.product_id, kind, on_hand: taken, reserved: -item.quantity };
            self.book(&booking, None, Some(id));
            self.writes.closed.push((id, item.product_id.clone()));
        }
        self.writes.ended.push((id, state));
        reservation.state = state;
        if let Some(known) = self.locked.reservations.get_mut(&id) {
            known.reservation.state = state;
        }
        Ok(reservation)
    }
}

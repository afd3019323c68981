//! A hold of one item that is alone in its batch: one statement, which is its own transaction, instead of four round trips.
//!
//! It holds only where nothing but the product's own row decides. Once it has the row's lock, Postgres looks at the row as
//! it is then, and only at that: a line that was settled meanwhile it would see as it was before. So it leaves alone what
//! has overdue lines, and all that it would refuse: that takes a transaction.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    request::{Answer, Command, Done, Request},
    writer::{RETRYING, Writer},
};
use crate::{
    error::Error,
    model::{Reservation, ReservationId, ReservationState},
    store,
};

impl Writer {
    /// Holds what a request asks for; `None` where that takes a transaction, for which nothing is changed.
    pub(super) async fn hold(&mut self, request: &mut Request) -> Option<Answer> {
        let Request { command: Command::Reserve(id, new), claim: None } = request else { return None };
        let [item] = new.items.as_slice() else { return None };
        let begun = Instant::now();
        let expires_at = loop {
            let mut input = (*id, item, new.ttl);
            let held = self
                .connection
                .run(&mut input, |connection, (id, item, ttl)| Box::pin(store::hold(connection, *id, item, *ttl)))
                .await;
            match held {
                Ok(held) => break held?,
                Err(failure) if failure.is_lost() => {
                    let failure = Arc::new(failure);
                    let lost = *id;
                    match self.ask(move |connection| Box::pin(store::void(connection, lost))).await {
                        Some(Some(expires_at)) => break expires_at,
                        // That one can never be any more, whatever is still under way: another one can.
                        Some(None) if begun.elapsed() < RETRYING => *id = ReservationId::new(),
                        Some(None) => return Some(Err(Error::Database(failure))),
                        None => return Some(Err(Error::OutcomeUnknown(failure))),
                    }
                }
                Err(failure) => return Some(Err(Error::Database(Arc::new(failure)))),
            }
        };
        let items = new.items.clone();
        let reservation = Reservation { id: *id, state: ReservationState::Held, items, expires_at };
        Some(Ok(Done::Reservation(reservation)))
    }
}

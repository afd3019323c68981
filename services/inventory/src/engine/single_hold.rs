//! A reservation of one item that is alone in its batch takes one statement, which is its own transaction, instead of
//! four round trips.
//!
//! It applies only if nothing but the product's own row decides. After waiting for the row lock, Postgres re-reads that
//! row alone: a line settled in the meantime would be read in its old state. The statement therefore matches neither
//! products with overdue lines nor requests that must be refused. Both need a transaction.

use std::sync::Arc;

use chassis::database::DedicatedConnection;
use tokio::time::Instant;

use super::outcome::{self, RETRY_PERIOD};
use crate::{
    error::Error,
    model::{NewReservation, Reservation, ReservationId, ReservationState},
    store,
};

/// Reserves a single item. Returns `None`, with nothing changed, if the request needs a transaction.
pub(super) async fn reserve(
    connection: &mut DedicatedConnection,
    id: &mut ReservationId,
    new: &NewReservation,
) -> Option<Result<Reservation, Error>> {
    let [item] = new.items.as_slice() else { return None };
    let started = Instant::now();
    let expires_at = loop {
        let mut input = (*id, item, new.ttl);
        let held = connection
            .run(&mut input, |connection, (id, item, ttl)| Box::pin(store::hold(connection, *id, item, *ttl)))
            .await;
        match held {
            Ok(held) => break held?,
            Err(failure) if failure.is_lost() => {
                let failure = Arc::new(failure);
                let lost = *id;
                match outcome::find(connection, move |connection| Box::pin(store::void(connection, lost))).await {
                    Some(Some(expires_at)) => break expires_at,
                    // The lost statement can no longer take effect, so the request is retried under a new id.
                    Some(None) if started.elapsed() < RETRY_PERIOD => *id = ReservationId::new(),
                    Some(None) => return Some(Err(Error::Database(failure))),
                    None => return Some(Err(Error::OutcomeUnknown(failure))),
                }
            }
            Err(failure) => return Some(Err(Error::Database(Arc::new(failure)))),
        }
    };
    Some(Ok(Reservation { id: *id, state: ReservationState::Held, items: new.items.clone(), expires_at }))
}

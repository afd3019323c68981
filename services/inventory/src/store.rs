//! All SQL of inventory.
//!
//! Writers lock products in order of their ids. Everything that belongs to a product is only changed under its lock:
//! its movements, its lines, and the rows of the reservations whose first product it is. Therefore writers cannot
//! deadlock.

mod batch;
mod idempotency;
mod locks;
mod reservations;
mod stock;

pub(crate) use batch::{close_reservations, was_committed, write_movements};
pub(crate) use idempotency::{claim, prune, store_responses, stored_responses};
pub(crate) use locks::lock_available;
pub(crate) use reservations::{
    MAX_OVERDUE_LINES, hold, next_expiries, overdue_lines, overdue_products, products, reservation, reservations, void,
};
pub(crate) use stock::{counters, insert_products, list, lock, movements};

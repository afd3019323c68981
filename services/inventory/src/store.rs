//! All SQL of inventory.
//!
//! Writers lock products in order of their ids. Everything that belongs to a product is only changed under its lock:
//! its movements, its expiries, and the rows of the reservations whose first product it is. Therefore writers cannot
//! deadlock.

mod batch;
mod expiries;
mod idempotency;
mod reservations;
mod stock;

pub(crate) use batch::{end_reservations, was_committed, write_movements};
pub(crate) use expiries::{due_expiries, prune_expiries, unsettled_products};
pub(crate) use idempotency::{claim, prune, store_responses, stored_responses};
pub(crate) use reservations::{Expiry, hold, products, prune_reservations, reservation, reservations, void};
pub(crate) use stock::{Locked, counters, existing, insert_products, limit_waits, list, lock, lock_free, movements};

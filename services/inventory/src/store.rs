//! All SQL of inventory.
//!
//! Writers lock products in order of their ids. Everything that belongs to a product is only changed under its lock:
//! its movements, its expiries, and the rows of the reservations whose first product it is. Therefore writers cannot
//! deadlock.

mod batch;
mod expiries;
mod ledger;
mod reservations;
mod stock;

pub(crate) use batch::{end_reservations, was_committed, write_movements};
pub(crate) use expiries::{OverdueExpiry, delete_expiries, due_expiries, overdue_expiries};
pub(crate) use ledger::{PrunedLedger, lock_pruning, old_ledgers, prune_ledger};
pub(crate) use reservations::{Expiry, hold, products, prune_reservations, reservation, reservations, void};
pub(crate) use stock::{Locked, counters, existing, insert_products, limit_waits, list, lock, lock_free, movements};

//! All SQL of inventory.
//!
//! Writers lock products in order of their ids, and touch what belongs to a product only under its lock: its movements,
//! its lines, and the row of each reservation of which it is the first product. So two writers never wait for each other.

mod batch;
mod idempotency;
mod reservations;
mod stock;

use chrono::{DateTime, Utc};

use crate::model::{ProductId, ReservationState};

pub(crate) use batch::{close, record, was_recorded};
pub(crate) use idempotency::{claim, keep, kept, prune};
pub(crate) use reservations::{
    MOST_OVERDUE, hold, next_expiries, overdue_lines, overdue_products, products, reservation, reservations, void,
};
pub(crate) use stock::{add, counters, list, lock, movements};

fn product_id(text: String) -> Result<ProductId, sqlx::Error> {
    text.try_into().map_err(|error: &str| sqlx::Error::Decode(error.into()))
}

fn state(name: &str) -> Result<ReservationState, sqlx::Error> {
    ReservationState::named(name).ok_or_else(|| sqlx::Error::Decode(format!("{name} is no state").into()))
}

/// What the database must have but sqlx cannot know of: a column that is never null, an instant within chrono's range.
fn present<T>(value: Option<T>) -> Result<T, sqlx::Error> {
    value.ok_or_else(|| sqlx::Error::Decode("null".into()))
}

type Instant = DateTime<Utc>;

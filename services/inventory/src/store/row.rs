//! Converts columns to the values they must hold.

use chrono::{DateTime, Utc};

use crate::model::{ProductId, ReservationState};

pub(super) type Instant = DateTime<Utc>;

pub(super) fn product_id(text: String) -> Result<ProductId, sqlx::Error> {
    text.try_into().map_err(|error: &str| sqlx::Error::Decode(error.into()))
}

pub(super) fn state(name: &str) -> Result<ReservationState, sqlx::Error> {
    ReservationState::named(name).ok_or_else(|| sqlx::Error::Decode(format!("invalid state: {name}").into()))
}

/// Unwraps a column that sqlx believes to be nullable but that is never null.
pub(super) fn not_null<T>(value: Option<T>) -> Result<T, sqlx::Error> {
    value.ok_or_else(|| sqlx::Error::Decode("unexpected null".into()))
}

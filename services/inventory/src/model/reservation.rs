//! Reservations: what a client holds, until it commits it, releases it or lets it expire.

use std::{collections::BTreeMap, fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{ProductId, TimeToLive};

/// A reservation's id: a UUID (version 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct ReservationId(pub(crate) Uuid);

impl ReservationId {
    /// An id that nothing has yet.
    pub(crate) fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for ReservationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that is no reservation's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAnId;

impl FromStr for ReservationId {
    type Err = NotAnId;

    /// Takes the hyphenated form alone, so that a reservation has one URL.
    fn from_str(text: &str) -> Result<Self, NotAnId> {
        if text.len() != uuid::fmt::Hyphenated::LENGTH {
            return Err(NotAnId);
        }
        text.parse().map(Self).map_err(|_| NotAnId)
    }
}

/// So much of a product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Item {
    pub(crate) product_id: ProductId,
    /// How much of it.
    #[schema(minimum = 1)]
    pub(crate) quantity: i64,
}

/// What is reserved together: each product once, in order of their ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Items(Vec<Item>);

impl Items {
    /// The most items of a request.
    pub(crate) const MOST: usize = 100;

    /// Merges items: of a product that comes twice the sum counts.
    ///
    /// # Errors
    /// A text that says what is wrong with how many they are.
    pub(crate) fn merge(items: Vec<Item>) -> Result<Self, &'static str> {
        if items.is_empty() || items.len() > Self::MOST {
            return Err("must have 1 to 100 items");
        }
        let mut merged: BTreeMap<ProductId, i64> = BTreeMap::new();
        for Item { product_id, quantity } in items {
            // At most 100 times 2^53: it does not overflow. More than there can ever be is simply not in stock.
            *merged.entry(product_id).or_default() += quantity;
        }
        Ok(Self(merged.into_iter().map(|(product_id, quantity)| Item { product_id, quantity }).collect()))
    }

    /// Those of a reservation that is there.
    pub(crate) fn of_lines(mut items: Vec<Item>) -> Self {
        items.sort_unstable_by(|one, other| one.product_id.cmp(&other.product_id));
        Self(items)
    }

    pub(crate) fn as_slice(&self) -> &[Item] {
        &self.0
    }
}

/// A reservation to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewReservation {
    pub(crate) items: Items,
    pub(crate) ttl: TimeToLive,
}

/// What has become of a reservation. Only a held one changes, and only once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReservationState {
    /// Its items are reserved.
    Held,
    /// Its items were taken off the shelf.
    Committed,
    /// Its items were given back.
    Released,
    /// Nobody committed it in time.
    Expired,
}

impl ReservationState {
    /// Its name in the database and in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Committed => "committed",
            Self::Released => "released",
            Self::Expired => "expired",
        }
    }

    /// The state of this name; `None` for any other.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Held, Self::Committed, Self::Released, Self::Expired].into_iter().find(|state| state.name() == name)
    }
}

/// A reservation as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Reservation {
    #[schema(value_type = Uuid)]
    pub(crate) id: ReservationId,
    pub(crate) state: ReservationState,
    /// Each product once, in order of their ids.
    #[schema(value_type = Vec<Item>)]
    pub(crate) items: Items,
    /// When it expires, or would have.
    pub(crate) expires_at: DateTime<Utc>,
}

impl Reservation {
    /// How many states it has been in; the `ETag`.
    pub(crate) fn version(&self) -> i64 {
        if self.state == ReservationState::Held { 1 } else { 2 }
    }
}

/// How a client ends a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Take the items off the shelf.
    Commit,
    /// Give them back.
    Release,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(product: &str, quantity: i64) -> Item {
        Item { product_id: ProductId::try_from(product.to_owned()).expect("valid"), quantity }
    }

    #[test]
    fn items_of_one_product_are_merged_and_sorted() {
        let items = Items::merge(vec![item("b", 1), item("a", 2), item("b", 3)]).expect("items");
        assert_eq!(items.as_slice(), [item("a", 2), item("b", 4)]);
    }

    #[test]
    fn there_are_1_to_100_items() {
        assert!(Items::merge(Vec::new()).is_err());
        assert!(Items::merge(vec![item("a", 1); 100]).is_ok());
        assert!(Items::merge(vec![item("a", 1); 101]).is_err());
    }

    #[test]
    fn an_id_is_a_hyphenated_uuid() {
        assert!("0190d9a4-1f5e-7c3a-8a5e-0123456789ab".parse::<ReservationId>().is_ok());
        for bad in ["", "1", "0190d9a41f5e7c3a8a5e0123456789ab", "{0190d9a4-1f5e-7c3a-8a5e-0123456789ab}"] {
            assert!(bad.parse::<ReservationId>().is_err(), "{bad:?}");
        }
    }
}

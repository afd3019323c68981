//! Reservations: stock that is held for a client until it is committed, released or expires.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use contracts::{ProductId, ResourceId as ReservationId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::number::TimeToLive;

/// A quantity of a product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Item {
    pub(crate) product_id: ProductId,
    #[schema(minimum = 1)]
    pub(crate) quantity: i64,
}

/// The items of one reservation: each product once, sorted by id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Items(Vec<Item>);

impl Items {
    /// The maximum number of items in a request.
    pub(crate) const MAX: usize = 100;

    /// The error of a wrong number of items.
    pub(crate) const WRONG_COUNT: &str = "must contain 1 to 100 items";

    /// Merges items: the quantities of a product that occurs several times are added up.
    ///
    /// # Errors
    /// Returns an error if there are no items or more than [`Self::MAX`].
    pub(crate) fn merge(items: Vec<Item>) -> Result<Self, &'static str> {
        if items.is_empty() || items.len() > Self::MAX {
            return Err(Self::WRONG_COUNT);
        }
        let mut merged: BTreeMap<ProductId, i64> = BTreeMap::new();
        for Item { product_id, quantity } in items {
            // At most 100 times 2^53, so this cannot overflow. A sum above 2^53 is refused as a shortage.
            *merged.entry(product_id).or_default() += quantity;
        }
        Ok(Self(merged.into_iter().map(|(product_id, quantity)| Item { product_id, quantity }).collect()))
    }

    /// The items of a stored reservation, which are merged and sorted.
    pub(crate) fn stored(items: Vec<Item>) -> Self {
        Self(items)
    }

    pub(crate) fn as_slice(&self) -> &[Item] {
        &self.0
    }
}

/// A request to reserve stock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewReservation {
    pub(crate) items: Items,
    pub(crate) ttl: TimeToLive,
}

/// The state of a reservation. Only a held reservation changes its state, and only once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReservationState {
    /// Its items are reserved.
    Held,
    /// Its items were removed from the quantity on hand.
    Committed,
    /// Its items were returned to stock.
    Released,
    /// It was not committed in time.
    Expired,
}

impl ReservationState {
    /// The name in the database and in JSON. The database has no `expired`: a hold that is past its expiry is.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Committed => "committed",
            Self::Released => "released",
            Self::Expired => "expired",
        }
    }

    /// Looks a state up by its name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Held, Self::Committed, Self::Released, Self::Expired].into_iter().find(|state| state.name() == name)
    }
}

/// A reservation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Reservation {
    #[schema(value_type = Uuid)]
    pub(crate) id: ReservationId,
    /// Whose it is: see [`Actor`](super::Actor). Clients do not see it, so it is not part of a stored response.
    #[serde(skip)]
    pub(crate) subject: Arc<str>,
    pub(crate) state: ReservationState,
    /// Each product once, sorted by id.
    #[schema(value_type = Vec<Item>)]
    pub(crate) items: Items,
    /// When the reservation expires, or would have expired; a full second.
    pub(crate) expires_at: DateTime<Utc>,
}

impl Reservation {
    /// The `ETag`: the number of states it has been in.
    pub(crate) fn version(&self) -> i64 {
        if self.state == ReservationState::Held { 1 } else { 2 }
    }
}

/// How a client ends a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transition {
    /// Remove the items from the quantity on hand.
    Commit,
    /// Return the items to stock.
    Release,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(product: &str, quantity: i64) -> Item {
        Item { product_id: ProductId::try_from(product.to_owned()).expect("a valid id"), quantity }
    }

    #[test]
    fn items_of_one_product_are_merged_and_sorted() {
        let items = Items::merge(vec![item("b", 1), item("a", 2), item("b", 3)]).expect("valid items");
        assert_eq!(items.as_slice(), [item("a", 2), item("b", 4)]);
    }

    #[test]
    fn a_request_has_1_to_100_items() {
        assert!(Items::merge(Vec::new()).is_err());
        assert!(Items::merge(vec![item("a", 1); 100]).is_ok());
        assert!(Items::merge(vec![item("a", 1); 101]).is_err());
    }
}

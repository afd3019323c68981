//! The stock of a product, and changes to it.

use std::fmt::{self, Display, Formatter};

use contracts::ProductId;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    movement::Reason,
    number::{Delta, Quantity},
};

/// The stock of a product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the API defines the names")]
pub struct Stock {
    pub(crate) product_id: ProductId,
    /// The quantity available: `on_hand` minus `reserved`.
    #[schema(minimum = 0)]
    pub(crate) stock: i64,
    /// The quantity on the shelf.
    #[schema(minimum = 0)]
    pub(crate) on_hand: i64,
    /// The part of `on_hand` that reservations hold.
    #[schema(minimum = 0)]
    pub(crate) reserved: i64,
    #[serde(skip)]
    pub(crate) version: Version,
}

/// The version of a product's stock; the `ETag`. No two stocks of a product have the same one.
///
/// A reader counts the holds that have expired, while a transaction that was decided before they expired may still be
/// in progress. So a change and an expiry may both follow the same stock, and a single number would name both. Here the
/// number of changes, which is the difference of the two numbers, identifies the last change; and after that change,
/// the number of expired holds says which ones, since they expire in the order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Version {
    /// The number of the last movement, plus one for each expired hold that is not yet in the ledger.
    pub(crate) number: i64,
    /// How many of these numbers are of expired holds.
    pub(crate) expired: i64,
}

impl Display for Version {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let Self { number, expired } = self;
        if *expired == 0 { write!(formatter, "{number}") } else { write!(formatter, "{number}.{expired}") }
    }
}

impl Stock {
    pub(crate) fn new(product_id: ProductId, counters: Counters) -> Self {
        let Counters { on_hand, reserved, version } = counters;
        Self { product_id, stock: on_hand - reserved, on_hand, reserved, version }
    }
}

/// A product's counters and their version. The default is an unknown product's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counters {
    pub(crate) on_hand: i64,
    pub(crate) reserved: i64,
    pub(crate) version: Version,
}

/// A change to one product's quantity on hand.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) product_id: ProductId,
    pub(crate) action: Action,
}

/// How the quantity on hand changes.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    Set(Quantity),
    Adjust(Delta, Option<Reason>),
}

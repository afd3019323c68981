//! The stock of a product, and changes to it.

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
    /// The `ETag`: the number of the last movement, plus one for each expired hold that is not yet in the ledger.
    #[serde(skip)]
    pub(crate) version: i64,
}

impl Stock {
    pub(crate) fn new(product_id: ProductId, counters: Counters) -> Self {
        let Counters { on_hand, reserved, version } = counters;
        Self { product_id, stock: on_hand - reserved, on_hand, reserved, version }
    }
}

/// A product's counters and the number of the movement that led to them. The default is an unknown product's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counters {
    pub(crate) on_hand: i64,
    pub(crate) reserved: i64,
    pub(crate) version: i64,
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

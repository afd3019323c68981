//! Wishlists.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use contracts::ProductId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The available stock of products, by product id.
pub(crate) type Stocks = HashMap<String, i64>;

/// The maximum number of products on a wishlist.
pub(crate) const MAX_WISHES: usize = 200;

/// The products of a new wishlist, at most 200. Duplicates are ignored.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(try_from = "Vec<ProductId>")]
#[schema(value_type = Vec<ProductId>, max_items = 200)]
pub(crate) struct Wishes(Vec<ProductId>);

impl Wishes {
    pub(crate) fn product_ids(&self) -> &[ProductId] {
        &self.0
    }

    /// The wishes as stored with a new user.
    pub(crate) fn added_at(self, at: DateTime<Utc>) -> Vec<Wish> {
        self.0.into_iter().map(|product_id| Wish { product_id, added_at: at }).collect()
    }
}

impl TryFrom<Vec<ProductId>> for Wishes {
    type Error = &'static str;

    fn try_from(mut product_ids: Vec<ProductId>) -> Result<Self, Self::Error> {
        if product_ids.len() > MAX_WISHES {
            return Err("must have at most 200 products");
        }
        // `store::wishlist` returns products that were added at the same time in this order.
        product_ids.sort_unstable();
        product_ids.dedup();
        Ok(Self(product_ids))
    }
}

/// A product on a wishlist, as stored.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) product_id: ProductId,
    pub(crate) added_at: DateTime<Utc>,
}

/// A wishlist with the stock of its products.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Wishlist {
    /// The products, in the order they were added; products added at the same time are sorted by id.
    #[schema(max_items = 200)]
    items: Vec<WishlistItem>,
    /// Whether the stock is unknown because inventory did not respond in time.
    degraded: bool,
}

/// A product on a wishlist.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct WishlistItem {
    #[schema(inline)]
    product_id: ProductId,
    /// The available stock; null if unknown.
    #[schema(required = true, minimum = 0)]
    stock: Option<i64>,
    added_at: DateTime<Utc>,
}

impl Wishlist {
    /// Joins wishes with the stock of their products, if it is known.
    pub(crate) fn new(wishes: Vec<Wish>, stocks: Option<&Stocks>) -> Self {
        let item = |Wish { product_id, added_at }| {
            let stock = stocks.and_then(|stocks| stocks.get(product_id.as_str()).copied());
            WishlistItem { product_id, stock, added_at }
        };
        Self { items: wishes.into_iter().map(item).collect(), degraded: stocks.is_none() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product_id(text: &str) -> ProductId {
        ProductId::try_from(text.to_owned()).expect("a valid id")
    }

    #[test]
    fn a_wishlist_has_at_most_200_products_each_once() {
        let wishes = Wishes::try_from(["b", "a", "b"].map(product_id).to_vec()).expect("valid");
        assert_eq!(wishes.product_ids(), ["a", "b"].map(product_id));
        let many = |count: usize| (0..count).map(|number| product_id(&number.to_string())).collect::<Vec<_>>();
        assert!(Wishes::try_from(many(200)).is_ok());
        assert!(Wishes::try_from(many(201)).is_err());
    }

    #[test]
    fn without_stocks_the_wishlist_is_degraded() {
        let wishes = || Wishes::try_from(vec![product_id("a")]).expect("valid").added_at(DateTime::UNIX_EPOCH);
        let degraded = serde_json::to_value(Wishlist::new(wishes(), None)).expect("JSON");
        let at = "1970-01-01T00:00:00Z";
        let item = serde_json::json!({"product_id": "a", "stock": null, "added_at": at});
        assert_eq!(degraded, serde_json::json!({"items": [item], "degraded": true}));
        let stocks = Stocks::from([("a".to_owned(), 3)]);
        let whole = serde_json::to_value(Wishlist::new(wishes(), Some(&stocks))).expect("JSON");
        assert_eq!((&whole["degraded"], &whole["items"][0]["stock"]), (&false.into(), &3.into()));
    }
}

//! The client of inventory, which may be unavailable.

use std::time::Duration;

use chassis::grpc::{Channel, read};
use contracts::inventory::v1::{BatchGetStockRequest, inventory_client::InventoryClient};
use tonic::{Code, Status};

use crate::model::{ProductId, Stocks};

/// The peer's name.
pub(crate) const INVENTORY: &str = "inventory";

/// How long inventory may take to respond. The stock is optional on a wishlist and not worth a longer wait.
const DEADLINE: Duration = Duration::from_millis(300);

/// The client; `None` if no URL is configured.
#[derive(Clone)]
pub(crate) struct Inventory(Option<InventoryClient<Channel>>);

impl Inventory {
    pub(crate) fn new(channel: Option<Channel>) -> Self {
        Self(channel.map(InventoryClient::new))
    }

    /// Fetches the stock of these products in one call. Returns `None` if inventory does not respond.
    pub(crate) async fn stocks(&self, product_ids: impl Iterator<Item = &ProductId>) -> Option<Stocks> {
        let product_ids: Vec<String> = product_ids.map(|product_id| product_id.as_str().to_owned()).collect();
        if product_ids.is_empty() {
            return Some(Stocks::new());
        }
        let mut client = self.0.clone()?;
        match client.batch_get_stock(read(BatchGetStockRequest { product_ids }, DEADLINE)).await {
            Ok(response) => {
                let stocks = response.into_inner().stocks.into_iter();
                Some(stocks.map(|stock| (stock.product_id, stock.stock)).collect())
            }
            Err(status) => {
                log(&status);
                None
            }
        }
    }
}

/// Logs errors that indicate a bug in one of the two services. What is logged while inventory is unavailable is in
/// `chassis`, `grpc/client/availability.rs`; metrics count the calls that fail.
fn log(status: &Status) {
    if !matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled) {
        tracing::error!(code = ?status.code(), reason = status.message(), "inventory refused the call");
    }
}

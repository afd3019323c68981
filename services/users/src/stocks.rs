//! What inventory has of products, asked over gRPC; it may be away.

use std::{collections::HashMap, time::Duration};

use chassis::grpc::{Channel, read};
use contracts::{
    ProductId,
    inventory::v1::{BatchGetStockRequest, inventory_client::InventoryClient},
};
use tonic::{Code, Status};

/// The peer's name.
pub(crate) const INVENTORY: &str = "inventory";

/// How long inventory may take: stock is a help to whoever looks at a wishlist, and not worth more of a wait.
const DEADLINE: Duration = Duration::from_millis(300);

/// The stock of each product, as inventory says.
pub(crate) type Stocks = HashMap<String, i64>;

/// Asks inventory, where it is known where that is.
#[derive(Clone)]
pub(crate) struct Inventory(Option<InventoryClient<Channel>>);

impl Inventory {
    pub(crate) fn new(channel: Option<Channel>) -> Self {
        Self(channel.map(InventoryClient::new))
    }

    /// The stock of these products, by one call; `None` where inventory does not answer.
    pub(crate) async fn stocks(&self, product_ids: impl Iterator<Item = &ProductId>) -> Option<Stocks> {
        let product_ids: Vec<String> = product_ids.map(|product_id| product_id.as_str().to_owned()).collect();
        if product_ids.is_empty() {
            return Some(Stocks::new());
        }
        let mut client = self.0.clone()?;
        match client.batch_get_stock(read(BatchGetStockRequest { product_ids }, DEADLINE)).await {
            Ok(answer) => {
                let stocks = answer.into_inner().stocks.into_iter();
                Some(stocks.map(|stock| (stock.product_id, stock.stock)).collect())
            }
            Err(status) => {
                log(&status);
                None
            }
        }
    }
}

/// An inventory that is away is counted as a metric, and its coming and going is logged where it is noticed. Anything
/// else is a mistake in one of the two services.
fn log(status: &Status) {
    if !matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled) {
        tracing::error!(code = ?status.code(), reason = status.message(), "inventory refused to tell the stock");
    }
}

//! `BatchGetStock`.

use chassis::{FieldError, Problem};
use contracts::inventory::v1 as api;

use crate::{
    engine::Inventory,
    model::{ProductId, Stock},
};

/// The maximum number of products in one call.
const MAX_PRODUCTS: usize = 200;

pub(super) async fn batch_get(
    inventory: &Inventory,
    request: api::BatchGetStockRequest,
) -> Result<api::BatchGetStockResponse, Problem> {
    let stocks = inventory.stocks(parse(request.product_ids)?).await?;
    Ok(api::BatchGetStockResponse { stocks: stocks.into_iter().map(message).collect() })
}

fn parse(product_ids: Vec<String>) -> Result<Vec<ProductId>, Problem> {
    if product_ids.len() > MAX_PRODUCTS {
        let detail = format!("must have at most {MAX_PRODUCTS} products");
        return Err(Problem::invalid(vec![FieldError::at("/product_ids", detail)]));
    }
    let mut errors = Vec::new();
    let mut parsed = Vec::with_capacity(product_ids.len());
    for (index, text) in product_ids.into_iter().enumerate() {
        match ProductId::try_from(text) {
            Ok(product_id) => parsed.push(product_id),
            Err(detail) => errors.push(FieldError::at(&format!("/product_ids/{index}"), detail)),
        }
    }
    if errors.is_empty() { Ok(parsed) } else { Err(Problem::invalid(errors)) }
}

fn message(stock: Stock) -> api::Stock {
    let Stock { product_id, stock, on_hand, reserved, version } = stock;
    api::Stock { product_id: product_id.as_str().to_owned(), stock, on_hand, reserved, version: version.number }
}

//! `BatchGetStock`.

use chassis::{FieldError, Problem};
use contracts::inventory::v1 as api;

use crate::{
    engine::Inventory,
    model::{ProductId, Stock},
};

/// The most products in one call.
const MOST: usize = 200;

pub(super) async fn batch_get(
    inventory: &Inventory,
    request: api::BatchGetStockRequest,
) -> Result<api::BatchGetStockResponse, Problem> {
    let stocks = inventory.read_all(parse(request.product_ids)?).await?;
    Ok(api::BatchGetStockResponse { stocks: stocks.into_iter().map(answer).collect() })
}

fn parse(product_ids: Vec<String>) -> Result<Vec<ProductId>, Problem> {
    if product_ids.len() > MOST {
        let fault = format!("must have at most {MOST} products");
        return Err(Problem::invalid(vec![FieldError::at("/product_ids", fault)]));
    }
    let mut faults = Vec::new();
    let mut parsed = Vec::with_capacity(product_ids.len());
    for (index, text) in product_ids.into_iter().enumerate() {
        match ProductId::try_from(text) {
            Ok(product_id) => parsed.push(product_id),
            Err(fault) => faults.push(FieldError::at(&format!("/product_ids/{index}"), fault)),
        }
    }
    if faults.is_empty() { Ok(parsed) } else { Err(Problem::invalid(faults)) }
}

fn answer(stock: Stock) -> api::Stock {
    let Stock { product_id, stock, on_hand, reserved, version } = stock;
    api::Stock { product_id: product_id.as_str().to_owned(), stock, on_hand, reserved, version }
}

//! Batched reads: one query for all waiting requests.

use std::{collections::HashMap, slice, sync::Arc};

use chassis::{
    Database,
    batch::{Arrivals, OpenHandler},
    database::{DatabaseError, DedicatedConnection},
};

use crate::{
    error::Error,
    model::{Counters, ProductId, Stock},
    store,
};

/// The maximum number of requests in a query. A larger query would not make a request cheaper, and replies to one query
/// are sent while Postgres runs the next.
const MAX_BATCH: usize = 32;

/// The maximum number of products in a query, so that it ends soon. No single request has more.
const MAX_PRODUCTS: usize = 512;

/// Reads the stock of products.
pub(super) struct Reader {
    connection: DedicatedConnection,
}

/// The products to read.
pub(super) enum StockQuery {
    /// By far the most frequent, so it allocates no list.
    One(ProductId),
    Many(Vec<ProductId>),
}

impl StockQuery {
    fn product_ids(&self) -> &[ProductId] {
        match self {
            Self::One(product_id) => slice::from_ref(product_id),
            Self::Many(product_ids) => product_ids,
        }
    }
}

/// The stock of all products of a batch, as of one instant.
#[derive(Clone)]
pub(super) struct Snapshot(Arc<HashMap<String, Counters>>);

impl Snapshot {
    /// The stock of a product; zero if it is unknown.
    pub(super) fn stock(&self, product_id: ProductId) -> Stock {
        let counters = self.0.get(product_id.as_str()).copied().unwrap_or_default();
        Stock::new(product_id, counters)
    }
}

impl Reader {
    pub(super) fn new(database: &Database) -> Self {
        Self { connection: database.dedicate() }
    }

    async fn read(&mut self, batch: &[StockQuery]) -> Result<HashMap<String, Counters>, DatabaseError> {
        let mut ids = Vec::with_capacity(batch.len());
        ids.extend(batch.iter().flat_map(StockQuery::product_ids).map(ProductId::as_str));
        self.connection.run(&mut ids, |connection, ids| Box::pin(store::counters(connection, ids))).await
    }
}

impl OpenHandler for Reader {
    type Request = StockQuery;
    type Reply = Result<Snapshot, Error>;

    async fn handle(&mut self, mut batch: Vec<StockQuery>, arrivals: &mut Arrivals<'_, Self>) -> Vec<Self::Reply> {
        join(&mut batch, arrivals);
        let mut result = self.read(&batch).await;
        // The connection may have been lost while idle, so a lost read is retried once on a new connection.
        if result.as_ref().is_err_and(DatabaseError::is_lost) {
            result = self.read(&batch).await;
        }
        let result = match result {
            Ok(counters) => Ok(Snapshot(Arc::new(counters))),
            Err(failure) => Err(Error::Database(Arc::new(failure))),
        };
        vec![result; batch.len()]
    }
}

/// Lets waiting requests join the batch, in order, until it is full.
fn join(batch: &mut Vec<StockQuery>, arrivals: &mut Arrivals<'_, Reader>) {
    let mut products: usize = batch.iter().map(|query| query.product_ids().len()).sum();
    let fits = |query: &StockQuery, products: usize| products + query.product_ids().len() <= MAX_PRODUCTS;
    while batch.len() < MAX_BATCH
        && let Some(query) = arrivals.next_if(|query| fits(query, products))
    {
        products += query.product_ids().len();
        batch.push(query);
    }
}

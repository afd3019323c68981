//! Batched reads: one query for all that wait.

use std::{collections::HashMap, slice, sync::Arc};

use chassis::{
    Database,
    batch::{Arrivals, OpenHandler},
    database::{DedicatedConnection, Failure},
};

use crate::{
    error::Error,
    model::{Counters, ProductId, Stock},
    store,
};

/// The most requests that one query answers: while Postgres reads for them, those before are answered. More of them would
/// cost it no less each.
const LARGEST_BATCH: usize = 32;

/// The most products that one query reads, so that it ends soon. No request has more.
const MOST_PRODUCTS: usize = 512;

/// Reads the stock of products.
pub(super) struct Reader {
    connection: DedicatedConnection,
}

/// What to read. A request counts once in the queue, however many products it has.
pub(super) enum Wanted {
    /// One product: by far the most frequent, so it goes without a list.
    One(ProductId),
    /// These products.
    Several(Vec<ProductId>),
}

impl Wanted {
    fn product_ids(&self) -> &[ProductId] {
        match self {
            Self::One(product_id) => slice::from_ref(product_id),
            Self::Several(product_ids) => product_ids,
        }
    }
}

/// What was read: of the form, and in the order, in which it was wanted.
pub(super) enum Found {
    One(Stock),
    Several(Vec<Stock>),
}

impl Reader {
    pub(super) fn new(database: &Database) -> Self {
        Self { connection: database.dedicate() }
    }

    async fn read(&mut self, batch: &[Wanted]) -> Result<HashMap<String, Counters>, Failure> {
        let mut ids = Vec::with_capacity(batch.len());
        ids.extend(batch.iter().flat_map(Wanted::product_ids).map(ProductId::as_str));
        self.connection.run(&mut ids, |connection, ids| Box::pin(store::counters(connection, ids))).await
    }
}

impl OpenHandler for Reader {
    type Request = Wanted;
    type Reply = Result<Found, Error>;

    async fn handle(&mut self, mut batch: Vec<Wanted>, arrivals: &mut Arrivals<'_, Self>) -> Vec<Self::Reply> {
        join(&mut batch, arrivals);
        let mut result = self.read(&batch).await;
        // The kept connection may have died since: a read is tried once more, on a new one.
        if result.as_ref().is_err_and(Failure::is_lost) {
            result = self.read(&batch).await;
        }
        match result {
            Ok(found) => {
                let stock = |id: ProductId| {
                    let counters = found.get(id.as_str()).copied().unwrap_or_default();
                    Stock::new(id, counters)
                };
                let answer = |wanted| match wanted {
                    Wanted::One(id) => Ok(Found::One(stock(id))),
                    Wanted::Several(ids) => Ok(Found::Several(ids.into_iter().map(stock).collect())),
                };
                batch.into_iter().map(answer).collect()
            }
            Err(failure) => {
                let failure = Arc::new(failure);
                batch.iter().map(|_| Err(Error::Database(failure.clone()))).collect()
            }
        }
    }
}

/// Lets those that wait join the batch, in order, until it is large.
fn join(batch: &mut Vec<Wanted>, arrivals: &mut Arrivals<'_, Reader>) {
    let mut products: usize = batch.iter().map(|wanted| wanted.product_ids().len()).sum();
    let fits = |wanted: &Wanted, products: usize| products + wanted.product_ids().len() <= MOST_PRODUCTS;
    while batch.len() < LARGEST_BATCH
        && let Some(wanted) = arrivals.next_if(|wanted| fits(wanted, products))
    {
        products += wanted.product_ids().len();
        batch.push(wanted);
    }
}

//! Batched reads: one query for all that wait.

use std::{collections::HashMap, sync::Arc};

use chassis::{
    Database,
    batch::Handler,
    database::{Failure, HeldConnection, limited},
};

use crate::{
    error::Error,
    model::{Counters, ProductId, Stock},
    store,
};

/// Reads the stock of products.
pub(super) struct Reader {
    connection: HeldConnection,
}

impl Reader {
    pub(super) fn new(database: &Database) -> Self {
        Self { connection: database.hold() }
    }

    async fn read(&mut self, batch: &[ProductId]) -> Result<HashMap<String, Counters>, Failure> {
        let ids: Vec<&str> = batch.iter().map(ProductId::as_str).collect();
        loop {
            let mut lease = self.connection.begin().await?;
            let result = limited(store::counters(lease.connection(), &ids)).await;
            if !self.connection.end(lease, &result) {
                return result;
            }
        }
    }
}

impl Handler for Reader {
    type Request = ProductId;
    type Answer = Result<Stock, Error>;

    async fn handle(&mut self, batch: Vec<ProductId>) -> Vec<Self::Answer> {
        let mut result = self.read(&batch).await;
        // The kept connection may have died since: a read is tried once more, on a new one.
        if result.as_ref().is_err_and(Failure::is_lost) {
            result = self.read(&batch).await;
        }
        match result {
            Ok(found) => {
                let stock = |id: ProductId| {
                    let counters = found.get(id.as_str()).copied().unwrap_or_default();
                    Ok(Stock::new(id, counters))
                };
                batch.into_iter().map(stock).collect()
            }
            Err(failure) => {
                let failure = Arc::new(failure);
                batch.iter().map(|_| Err(Error::Database(failure.clone()))).collect()
            }
        }
    }
}

//! The engine: reads and changes of stock, each in batches.

mod decide;
mod reader;
mod writer;

use std::sync::Arc;

use chassis::{Database, batch::Batcher};

use crate::{
    error::Error,
    model::{Action, Change, ProductId, Stock},
};
pub(crate) use decide::Entry;
use reader::Reader;
use writer::Writer;

/// Requests that may wait, and the most in one batch, of reads and of changes.
const QUEUE: usize = 4096;
const LARGEST_BATCH: usize = 512;

/// What the handlers share.
#[derive(Clone)]
pub struct Inventory(Arc<Engine>);

struct Engine {
    database: Database,
    reads: Batcher<Reader>,
    changes: Batcher<Writer>,
}

impl Inventory {
    pub(crate) fn new(database: &Database) -> Self {
        Self(Arc::new(Engine {
            database: database.clone(),
            reads: Batcher::spawn(Reader::new(database), QUEUE, LARGEST_BATCH),
            changes: Batcher::spawn(Writer::new(database), QUEUE, LARGEST_BATCH),
        }))
    }

    /// The database, for reads that are not worth a batch.
    pub(crate) fn database(&self) -> &Database {
        &self.0.database
    }

    /// The stock of a product; zero for an unknown one.
    pub(crate) async fn read(&self, product_id: ProductId) -> Result<Stock, Error> {
        self.0.reads.ask(product_id).await?
    }

    /// Changes the stock of a product, and returns what it then is.
    pub(crate) async fn change(&self, product_id: ProductId, action: Action) -> Result<Stock, Error> {
        self.0.changes.ask(Change { product_id, action }).await?
    }
}

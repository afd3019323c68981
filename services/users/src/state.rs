//! The state that the handlers share.

use std::sync::Arc;

use chassis::{Context, Database, batch::Batcher, idempotency};
use tokio::runtime::Handle;

use crate::{
    inventory::{INVENTORY, Inventory},
    model::{Stocks, Wish, Wishes, Wishlist},
    user_writer::{MAX_ROWS, UserWriter},
};

/// The maximum number of new users that wait.
const QUEUE: usize = 4096;

/// The state that the handlers share.
#[derive(Clone)]
pub struct Users {
    pub(crate) database: Database,
    pub(crate) writer: Arc<Batcher<UserWriter>>,
    inventory: Inventory,
}

impl Users {
    pub(crate) fn new(context: &Context) -> Self {
        idempotency::prune_in_background(context);
        let writer = UserWriter::new(&context.database);
        Self {
            database: context.database.clone(),
            writer: Arc::new(Batcher::spawn(&Handle::current(), writer, QUEUE, MAX_ROWS)),
            inventory: Inventory::new(context.peer(INVENTORY)),
        }
    }

    /// Adds the stock of its products to a wishlist, if inventory responds.
    pub(crate) async fn with_stocks(&self, wishes: Vec<Wish>) -> Wishlist {
        let stocks = self.inventory.stocks(wishes.iter().map(|wish| &wish.product_id)).await;
        Wishlist::new(wishes, stocks.as_ref())
    }

    /// Fetches the stock of the products on a new wishlist. Returns `None` if inventory does not respond.
    pub(crate) async fn stocks(&self, wishes: &Wishes) -> Option<Stocks> {
        self.inventory.stocks(wishes.product_ids().iter()).await
    }
}
